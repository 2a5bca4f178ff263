"""Thresholds, shifts and amplitudes by least squares, each layer against the ANN with the spiking prefix as input."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, fx

from ... import ranks
from ...neuron import SpikingNode
from ...neuron.activations import DAQCFS, QCFS
from ..config import ConversionConfig
from ..data.selection import Data
from ..graph import ShortcutReLU
from ..placement.sites import Site
from .amplitude import own_amplitude
from .level_fit import LevelFit
from .magnitude import magnitude
from .samples import Samples
from .sampling import spread_over
from .sensitivity import Sensitivity
from .side_by_side import Batches, Sweep, Visitor

_SAMPLES = 16_384  # a channel; with fewer the rarest and largest values are missed
_PEAK = 0.999  # less than this share of the largest value is another value
_ENERGY = 0.5  # share of the amplitude that keeps the energy of the activations, see FitNeurons


def least_squares(
    ann: fx.GraphModule,
    snn: fx.GraphModule,
    sites: list[Site],
    data: Data,
    config: ConversionConfig,
) -> None:
    r"""
    Layer by layer in graph order: shift = mean error of the neuron's input, then the threshold and the amplitude that
    fit the neuron's level k to the ANN's activation y,
    :math:`\min_{\theta, a} \sum (y - a\, k_\theta)^2` with :math:`a = \sum k y / \sum k^2`. Half of what this
    amplitude falls short of the activations' energy is given back (:class:`FitNeurons`).

    :param ann: the reference
    :param snn: the network with neurons; their parameters are set
    :param sites: the activations
    :param data: calibration data, read once
    :param config: the conversion's options; thresholds are searched only if ``threshold="mse"``
    """
    visitor = FitNeurons(ann, snn, sites, config)
    sweep = Sweep(ann, snn, {site.name for site in sites}, spool=data.spool)
    sweep.run(data.batches("read calibration data"), visitor, config.show_progress)


class FitNeurons(Visitor):
    r"""
    Fits each neuron when the sweep comes to it.

    A least-squares amplitude of a noisy level is less than the level is worth, and over many layers a signal fades,
    while the weights of the ANN expect all of it. So the amplitude is the mean of the least-squares one and of the one
    that gives the levels the energy of the activations, :math:`\sqrt{\sum y^2 / \sum k^2}`.
    """

    energy = _ENERGY

    def __init__(
        self,
        ann: fx.GraphModule,
        snn: fx.GraphModule,
        sites: list[Site],
        config: ConversionConfig,
        sensitivity: Sensitivity | None = None,
    ) -> None:
        self.ann, self.snn, self.sensitivity = ann, snn, sensitivity
        self.max_level = config.node_type.code.max_level(config.time_steps)
        self.sites = {site.name: site for site in sites if not site.is_lossless(self.max_level)}
        self.search = config.threshold == "mse"
        self.filled = config.filled_levels
        self.generator = config.generator()

    def sensitivity_of(self, name: str) -> list[Tensor] | None:
        """What errors at the site ``name`` count, batch by batch; ``None``: all the same."""
        return None if self.sensitivity is None else self.sensitivity.weights(name)

    def before(self, node: fx.Node, ann_input: Batches, snn_input: Batches) -> None:
        """Fit the neuron at ``node``, from the inputs ``[N, ...]`` that the two networks give it."""
        if node.target not in self.sites:
            return
        site = self.sites[node.target]
        if site.is_fixed:
            return
        neuron = self.snn.get_submodule(node.target).node
        reference = self.ann.get_submodule(node.target)
        if isinstance(reference, ShortcutReLU):
            # what it adds has to cancel the negative values that the spiking network has, whatever the ANN's are
            ann_input = snn_input
        places = spread_over([site.count(x) for x in ann_input], _SAMPLES, self.generator)
        samples = Samples(site, ann_input, snn_input, reference, places)
        by_place, weights = self.sensitivity_of(site.name), samples.weight
        if by_place is not None:
            sampled = samples.of([w.expand_as(x) for w, x in zip(by_place, ann_input, strict=True)])
            weights = sampled if weights is None else sampled * weights
        z1, z0, by_channel = samples.of(ann_input), samples.of(snn_input), site.channel_dim is not None
        if site.known_range is not None:
            set_shift(neuron, z1, z0, weights, by_channel)
            return
        # a trained threshold is kept
        search = self.search and not isinstance(site.activation, (QCFS, DAQCFS))
        # a channel's parameters of the activation itself (PReLU) lie along another axis than the neuron's may
        charge = None if neuron.activation is None else lambda: samples.of(snn_input, neuron.charge)
        y = samples.y
        unseen = self._unseen_peak(neuron, samples) if search else None
        if unseen is not None:
            peak, peak_weight = unseen
            weights = torch.cat([torch.ones_like(y) if weights is None else weights, peak_weight], 1)
            z1, z0, y = (torch.cat([values, peak], 1) for values in (z1, z0, y))
            charge = None if charge is None else lambda: torch.cat([samples.of(snn_input, neuron.charge), peak], 1)
        fit_neuron(neuron, z1, z0, y, search, by_channel, charge, self.energy, weights, self.filled)

    def _unseen_peak(self, neuron: SpikingNode, samples: Samples) -> tuple[Tensor, Tensor] | None:
        """
        One more sample ``[C, 1]`` and its weight, for channels whose samples do not reach the largest activation of all
        calibration images. That belongs to an image that is held out. The threshold was set from it.
        """
        peak = (neuron.step.detach() * max(1, round(self.max_level * self.filled))).expand(len(samples.y)).float()
        unseen = ranks.largest_in_rows(samples.y.abs()) < _PEAK * peak
        if not (unseen.any() and ranks.leads()):  # it is one sample, not one of each rank
            return None
        return torch.where(unseen, peak, 0.0).unsqueeze(1), (unseen * samples.share).unsqueeze(1)


def fit_neuron(
    neuron: SpikingNode,
    z1: Tensor,
    z0: Tensor,
    y: Tensor,
    search: bool,
    by_channel: bool = True,
    charge: Callable[[], Tensor] | None = None,
    energy: float = 0.0,
    weight: Tensor | None = None,
    filled: float = 1.0,
) -> None:
    """
    :param neuron: its shift, amplitude and, if ``search``, threshold and initial charge are set
    :param z1: the ANN's input of the activation, ``[C, samples]``
    :param z0: the spiking network's input at the same places
    :param y: the ANN's activation
    :param search: whether the threshold is searched
    :param by_channel: whether the neuron gets one value a channel; otherwise C = 1
    :param charge: what the neuron quantises at these places, once its shift is set; ``None``: the shifted input
    :param energy: how far the amplitude goes from the least-squares one, 0, to the one that keeps the energy, 1
    :param weight: of the squared errors, ``[C, samples]``; ``None``: 1
    :param filled: share of the levels that the search fills, those above are left to rare values
    """
    shift = set_shift(neuron, z1, z0, weight, by_channel)
    z = z0 + shift.unsqueeze(1) if charge is None else charge()
    max_level = neuron.code.max_level(neuron.T)
    per_threshold = neuron.code.levels_per_threshold(neuron.T)
    psi = 0.5 if neuron.psi is None else (neuron.psi / neuron.v_threshold).expand(len(y)).unsqueeze(1).float()
    unit = magnitude(ranks.largest_in_rows((y if weight is None else y * (weight > 0)).abs()))
    z, y = z / unit.unsqueeze(1), y / unit.unsqueeze(1)
    step = (neuron.v_threshold / per_threshold).expand(len(y)).float() / unit
    if search:
        highest = max(1, round(max_level * filled))
        step = LevelFit(z, y, highest, -highest if neuron.signed else 0, weight, psi).search(step)
    fit = LevelFit(z, y, max_level, neuron.min_level, weight, psi)
    for parameter, value in (
        (neuron.v_threshold, step * unit * per_threshold),
        (own_amplitude(neuron), fit.amplitude(step, energy) * unit * per_threshold),
    ):
        parameter.data = (value if by_channel else value[0]).to(parameter.dtype)


def set_shift(neuron: SpikingNode, z1: Tensor, z0: Tensor, weight: Tensor | None, by_channel: bool) -> Tensor:
    """As :func:`fit_neuron`, the shift alone. :return: it, ``[C]``"""
    weight = torch.ones_like(z0) if weight is None and ranks.count() > 1 else weight  # another rank may have weights
    if weight is None:
        shift = (z1 - z0).mean(1)
    else:
        error, count = ranks.total(torch.stack([((z1 - z0) * weight).sum(1), weight.sum(1)]))
        shift = error / count
    neuron.shift.data = (shift if by_channel else shift[0]).to(neuron.shift.dtype)
    return shift
