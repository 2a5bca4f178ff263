"""Thresholds, shifts and amplitudes by least squares, each layer against the ANN with the spiking prefix as input."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, fx

from ...neuron import SpikingNode
from ...neuron.activations import DAQCFS, QCFS
from ..config import ConversionConfig
from ..data.batches import CalibrationData
from ..data.outliers import usual_images
from ..graph import ShortcutReLU
from ..placement.sites import Site
from .amplitude import own_amplitude
from .magnitude import magnitude
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
    sweep = Sweep(ann, snn, {site.name for site in sites}, max_memory=config.max_memory)
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
        self.filled = config.filled_levels

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
        samples = _Samples(site, ann_input, snn_input, reference)
        weights = None if self.sensitivity is None else self.sensitivity.weights(site.name)
        if weights is not None:
            weights = samples.of([w.expand_as(x) for w, x in zip(weights, ann_input, strict=True)])
        if samples.weight is not None:
            weights = samples.weight if weights is None else weights * samples.weight
        z1, z0, by_channel = samples.of(ann_input), samples.of(snn_input), site.channel_dim is not None
        if site.known_range is not None:
            set_shift(neuron, z1, z0, weights, by_channel)
            return
        # a trained threshold is kept
        search = self.search and not isinstance(site.activation, (QCFS, DAQCFS))
        # a channel's parameters of the activation itself (PReLU) lie along another axis than the neuron's may
        charge = None if neuron.activation is None else lambda: samples.of(snn_input, neuron.charge)
        fit_neuron(neuron, z1, z0, samples.y, search, by_channel, charge, self.energy, weights, self.filled)


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
    unit = magnitude((y if weight is None else y * (weight > 0)).abs().amax(1))
    z, y = z / unit.unsqueeze(1), y / unit.unsqueeze(1)
    step = (neuron.v_threshold / per_threshold).expand(len(y)).float() / unit
    if search:
        highest = max(1, round(max_level * filled))
        step = _LevelFit(z, y, highest, -highest if neuron.signed else 0, weight, psi).search(step)
    fit = _LevelFit(z, y, max_level, -max_level if neuron.signed else 0, weight, psi)
    own_amplitude(neuron)
    for parameter, value in (
        (neuron.v_threshold, step * unit * per_threshold),
        (neuron.amplitude, fit.amplitude(step, energy) * unit * per_threshold),
    ):
        parameter.data = (value if by_channel else value[0]).to(parameter.dtype)


def set_shift(neuron: SpikingNode, z1: Tensor, z0: Tensor, weight: Tensor | None, by_channel: bool) -> Tensor:
    """As :func:`fit_neuron`, the shift alone. :return: it, ``[C]``"""
    shift = (z1 - z0).mean(1) if weight is None else ((z1 - z0) * weight).sum(1) / weight.sum(1)
    neuron.shift.data = (shift if by_channel else shift[0]).to(neuron.shift.dtype)
    return shift


class _LevelFit:
    """Squared error of ``amplitude * level`` against the ANN's activation, by channel, for any value of ``step``."""

    def __init__(
        self, z: Tensor, y: Tensor, max_level: int, min_level: int, weight: Tensor | None, psi: float | Tensor
    ) -> None:
        self.z, self.max_level, self.min_level, self.psi = z, max_level, min_level, psi
        # both sides of the fit times the root of the weight
        self.root = None if weight is None else weight.sqrt()
        self.largest, self.typical = _range(y if weight is None else y * (weight > 0))
        self.y = y if weight is None else y * self.root

    def levels(self, step: Tensor) -> Tensor:
        """The level at each sample if one level is worth ``step``, times the root of the sample's weight."""
        k = (self.z / step.unsqueeze(1)).add_(self.psi).floor_().clamp_(self.min_level, self.max_level)
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


class _Samples:
    """
    The values that a neuron is fitted to: those of :func:`_samples`, and of each image the largest if it is larger than
    all of these, so that a unit that is seldom active is not missed. Images that are outliers have no weight.

    :param site: the activation
    :param ann_input: its input in the ANN, batch by batch
    :param snn_input: the same in the spiking network
    :param activation: the ANN's module

    ``y`` are the ANN's activations ``[C, samples]``, ``weight`` says what each sample counts; ``None``: all the same.
    """

    def __init__(
        self, site: Site, ann_input: Batches, snn_input: Batches, activation: Callable[[Tensor], Tensor]
    ) -> None:
        self._site, self._peaks = site, None
        self.y, self.weight = _samples(site, ann_input, activation), None
        if site.channel_dim == 0:  # images lie along another axis than the first
            return
        usual = usual_images(ann_input, snn_input)
        if usual is not None:
            masks = [m.view(-1, *[1] * (x.dim() - 1)).expand_as(x) for m, x in zip(usual, ann_input, strict=True)]
            self.weight = _samples(site, masks)
        share = self.y.numel() / sum(x.numel() for x in ann_input)
        if share < 1:
            self._add_peaks(ann_input, activation, share, usual)

    def of(self, batches: Sequence[Tensor], see: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """``[C, samples]`` of ``see(batch)``, float32."""
        samples = _samples(self._site, batches, see)
        return samples if self._peaks is None else torch.cat([samples, _at(self._site, self._peaks, batches, see)], 1)

    def _add_peaks(
        self,
        ann_input: Batches,
        activation: Callable[[Tensor], Tensor],
        share: float,
        usual: list[Tensor] | None,
    ) -> None:
        even = torch.ones_like(self.y) if self.weight is None else self.weight
        places = [_by_image(self._site, activation(x)).abs().argmax(2, keepdim=True) for x in ann_input]
        peaks = _at(self._site, places, ann_input, activation)
        counts = peaks.abs() > (self.y.abs() * (even > 0)).amax(1, keepdim=True)
        counts = counts if usual is None else counts & torch.cat(usual)
        if counts.any():  # a sample that is chosen evenly stands for 1 / share of them
            self._peaks, self.y = places, torch.cat([self.y, peaks], 1)
            self.weight = torch.cat([even, counts * share], 1)


def _by_image(site: Site, x: Tensor) -> Tensor:
    """``x`` as ``[N, C, places]``; C = 1 where the channels are unknown."""
    if site.channel_dim is None:
        return x.reshape(len(x), 1, -1)
    return x.movedim(site.channel_dim, 1).unsqueeze(-1).flatten(2)


def _at(site: Site, places: list[Tensor], batches: Sequence[Tensor], see: Callable[[Tensor], Tensor] | None) -> Tensor:
    """``[C, images]`` of ``see(batch)``, float32, at one place of each image and channel."""
    values = (x if see is None else see(x) for x in batches)
    found = [_by_image(site, x).gather(2, place) for x, place in zip(values, places, strict=True)]
    return torch.cat(found).squeeze(2).T.float()



def _range(y: Tensor) -> tuple[Tensor, Tensor]:
    """The largest magnitude of each channel, and the mean of those that are not 0."""
    size = y.abs()
    return size.amax(1), size.sum(1) / (size > 0).sum(1).clamp_min(1)


def _samples(site: Site, batches: Sequence[Tensor], see: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    """``[C, samples]`` of ``see(batch)``, float32, at most ``_SAMPLES`` of them, spread evenly over the data."""
    total = sum(x.numel() if site.channel_dim is None else x.numel() // x.shape[site.channel_dim] for x in batches)
    stride = max(1, total // _SAMPLES)
    # an odd stride walks over all rows and columns of a feature map
    stride += 1 - stride % 2
    return torch.cat([site.by_channel(x if see is None else see(x))[:, ::stride].float() for x in batches], 1)
