"""Thresholds, shifts and amplitudes by least squares, each layer against the ANN with the spiking prefix as input."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, fx

from ...neuron import SpikingNode
from ...neuron.activations import DAQCFS, QCFS
from ..config import ConversionConfig
from ..data.batches import CalibrationData
from ..data.outliers import is_usual
from ..graph import ShortcutReLU
from ..placement.sites import Site
from .amplitude import own_amplitude
from .sampling import spread_over
from .sensitivity import Sensitivity
from .side_by_side import Batches, Sweep, Visitor

_SAMPLES = 16_384  # a channel; with fewer the rarest and largest values are missed
_COARSE = 20  # candidates for the full scale, from the mean activation to beyond the largest
_FINE = (0.88, 0.92, 0.96, 1.04, 1.08, 1.12)
_ROUNDING = 1e-13  # of the energy of the activations: what float32 makes of values that a level meets exactly
_ENERGY = 0.5  # share of the amplitude that keeps the energy of the activations, see FitNeurons


def least_squares(
    ann: fx.GraphModule,
    snn: fx.GraphModule,
    sites: list[Site],
    data: CalibrationData,
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
    """
    Fits each neuron when the sweep comes to it.

    A least-squares amplitude of a noisy level is less than the level is worth, and over many layers a signal fades,
    while the weights of the ANN expect all of it. So the amplitude is the mean of the least-squares one and of the one
    that gives the levels the energy of the activations, :math:`\\sqrt{\\sum y^2 / \\sum k^2}`.
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
        self.generator = config.generator()

    def before(self, node: fx.Node, ann_input: Batches, snn_input: Batches) -> None:
        """Fit the neuron at ``node``, from the inputs ``[N, ...]`` that the two networks give it."""
        if node.target not in self.sites:
            return
        site = self.sites[node.target]
        neuron = self.snn.get_submodule(node.target).node
        reference = self.ann.get_submodule(node.target)
        if isinstance(reference, ShortcutReLU):
            # what it adds has to cancel the negative values that the spiking network has, whatever the ANN's are
            ann_input = snn_input
        places = spread_over([site.count(x) for x in ann_input], _SAMPLES, self.generator)

        def samples(batches: Batches, see: Callable[[Tensor], Tensor] | None = None) -> Tensor:
            return _samples(site, batches, places, see)

        z1, z0, y = samples(ann_input), samples(snn_input), samples(ann_input, reference)
        # a trained threshold is kept
        search = self.search and not isinstance(site.activation, (QCFS, DAQCFS))
        # a channel's parameters of the activation itself (PReLU) lie along another axis than the neuron's may
        charge = None if neuron.activation is None else lambda: samples(snn_input, neuron.charge)
        weights = None if self.sensitivity is None else self.sensitivity.weights(site.name)
        if weights is not None:
            weights = samples([w.expand_as(x) for w, x in zip(weights, ann_input, strict=True)])
        fit_neuron(neuron, z1, z0, y, search, site.channel_dim is not None, charge, self.energy, weights)


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
) -> None:
    """
    :param neuron: its shift, amplitude and, if ``search``, threshold and initial charge are set
    :param z1: the ANN's input of the activation, ``[C, samples]``
    :param z0: the spiking network's input at the same places
    :param y: the ANN's activation
    :param search: whether the threshold is searched, for the levels up to the full scale of the code
    :param by_channel: whether the neuron gets one value a channel; otherwise C = 1
    :param charge: what the neuron quantises at these places, once its shift is set; ``None``: the shifted input
    :param energy: how far the amplitude goes from the least-squares one, 0, to the one that keeps the energy, 1
    :param weight: of the squared errors, ``[C, samples]``; ``None``: 1
    """
    usual = is_usual(z1.abs()) & is_usual(z0.abs())
    z1, z0, y = z1 * usual, z0 * usual, y * usual
    max_level = neuron.code.max_level(neuron.T)
    per_threshold = neuron.code.levels_per_threshold(neuron.T)
    shift = (z1 - z0).mean(1) if weight is None else ((z1 - z0) * weight).sum(1) / weight.sum(1)
    neuron.shift.data = (shift if by_channel else shift[0]).to(neuron.shift.dtype)
    z = z0 + shift.unsqueeze(1) if charge is None else charge() * usual
    fit = _LevelFit(z, y, max_level, -max_level if neuron.signed else 0, weight)
    step = (neuron.v_threshold / per_threshold).expand(len(y)).float()
    if search:
        full_scale = neuron.code.full_scale(neuron.T)
        step = _LevelFit(z, y, full_scale, -full_scale if neuron.signed else 0, weight).search(step)
    own_amplitude(neuron)
    for parameter, value in (
        (neuron.v_threshold, step * per_threshold),
        (neuron.amplitude, fit.amplitude(step, energy) * per_threshold),
    ):
        parameter.data = (value if by_channel else value[0]).to(parameter.dtype)


class _LevelFit:
    """Squared error of ``amplitude * level`` against the ANN's activation, by channel, for any value of ``step``."""

    def __init__(
        self, z: Tensor, y: Tensor, max_level: int, min_level: int = 0, weight: Tensor | None = None
    ) -> None:
        self.z, self.max_level, self.min_level = z, max_level, min_level
        # both sides of the fit times the root of the weight
        self.root = None if weight is None else weight.sqrt()
        self.largest, self.typical = _range(y)
        self.y = y if weight is None else y * self.root

    def levels(self, step: Tensor) -> Tensor:
        """The level at each sample if one level is worth ``step``, times the root of the sample's weight."""
        k = (self.z / step.unsqueeze(1)).add_(0.5).floor_().clamp_(self.min_level, self.max_level)
        return k if self.root is None else k.mul_(self.root)

    def error(self, step: Tensor) -> Tensor:
        """
        The squared error with the best amplitude that is not negative, from the differences themselves: in what an
        amplitude explains, the error of many levels is lost to rounding.
        """
        k = self.levels(step)
        best = (k * self.y).sum(1).clamp_min(0) / k.square().sum(1).clamp_min(1e-12)
        return k.mul_(best.unsqueeze(1)).sub_(self.y).square_().sum(1)

    def amplitude(self, step: Tensor, energy: float) -> Tensor:
        """The value of one level (see :func:`fit_neuron`); ``step`` where no level is ever reached."""
        k = self.levels(step)
        norm = k.square().sum(1)
        least_squares = (k * self.y).sum(1).clamp_min(0) / norm.clamp_min(1e-12)
        keeping = (self.y.square().sum(1) / norm.clamp_min(1e-12)).sqrt()
        return torch.where(norm > 0, torch.lerp(least_squares, keeping, energy), step)

    def search(self, step: Tensor) -> Tensor:
        """The step with the least error, or ``step`` if no other has less by more than floats can tell."""
        least = self.error(step) - _ROUNDING * self.y.square().sum(1)
        low, high = 0.7 * self.typical + 1e-12, 1.15 * self.largest.clamp_min(1e-12)
        # geometric, so that an outlier of any size leaves candidates for the rest
        for i in range(_COARSE):
            step, least = self._better(low * (high / low) ** (i / (_COARSE - 1)) / self.max_level, step, least)
        coarse = step
        for factor in _FINE:
            step, least = self._better(coarse * factor, step, least)
        return step

    def _better(self, candidate: Tensor, step: Tensor, least: Tensor) -> tuple[Tensor, Tensor]:
        error = self.error(candidate)
        return torch.where(error < least, candidate, step), torch.minimum(least, error)


def _range(y: Tensor) -> tuple[Tensor, Tensor]:
    """The largest magnitude of each channel, and the mean of those that are not 0."""
    size = y.abs()
    return size.amax(1), size.sum(1) / (size > 0).sum(1).clamp_min(1)


def _samples(
    site: Site, batches: Batches, places: Sequence[Tensor], see: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """``[C, samples]`` of ``see(batch)``, float32, at the ``places`` of each batch."""
    seen = (x if see is None else see(x) for x in batches)
    return torch.cat([site.at(x, numbers).float() for x, numbers in zip(seen, places, strict=True)], 1)
