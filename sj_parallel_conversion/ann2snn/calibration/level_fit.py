"""The threshold and the amplitude of a neuron that fit its levels to the ANN's activations."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import Tensor

from ... import ranks
from ...parameters import exact

_COARSE = 20  # candidates for the full scale, from the mean activation to beyond the largest
_FINE = (0.88, 0.92, 0.96, 1.04, 1.08, 1.12)
_BLOCK = 2**17  # samples at once, so that what is computed of them stays in the processor's cache
_ROUNDING = 1e-13  # of the energy of the activations: what float32 makes of values that a level meets exactly


class LevelFit:
    """Squared error of ``amplitude * level`` against the ANN's activation, by channel, for any value of ``step``."""

    def __init__(
        self, z: Tensor, y: Tensor, max_level: float, min_level: float, weight: Tensor | None, psi: float | Tensor
    ) -> None:
        self.z, self.max_level, self.min_level, self.psi = z, max_level, min_level, psi
        # both sides of the fit times the root of the weight
        self.root = None if weight is None else weight.sqrt()
        self.largest, self.typical = _range(y if weight is None else y * (weight > 0))
        self.y = y if self.root is None else y * self.root

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

    def errors(self, steps: list[Tensor]) -> Iterable[Tensor]:
        """As :meth:`error` for each step, of the samples of all ranks, who meet once for all steps: so from sums."""
        if ranks.count() == 1:
            return map(self.error, steps)
        product, norm = ranks.total(torch.stack([self._sums(step) for step in steps], 1))
        best = product.clamp_min(0) / norm.clamp_min(1e-12)
        return ranks.total(exact(self.y).square().sum(1)) - best * (2 * product - best * norm)

    def _sums(self, step: Tensor) -> Tensor:
        k = self.levels(step)
        return torch.stack([(k * self.y).sum(1, dtype=torch.float64), k.square_().sum(1, dtype=torch.float64)])

    def amplitude(self, step: Tensor, energy: float) -> Tensor:
        """The value of one level (see :func:`fit_neuron`); ``step`` where no level is ever reached."""
        k = self.levels(step)
        sums = [(k * self.y).sum(1), k.square().sum(1), self.y.square().sum(1)]
        product, norm, energy_of_y = ranks.total(torch.stack(sums))
        least_squares = product.clamp_min(0) / norm.clamp_min(1e-12)
        keeping = (energy_of_y / norm.clamp_min(1e-12)).sqrt()
        return torch.where(norm > 0, torch.lerp(least_squares, keeping, energy), step)

    def search(self, step: Tensor) -> Tensor:
        """The step with the least error, or ``step`` if no other has less by more than floats can tell."""
        channels = len(self.z)
        if self.z.device.type == "cpu":
            samples = int(ranks.largest(torch.tensor(self.z.shape[1])))  # all ranks meet equally often
            channels = max(1, _BLOCK // max(1, samples))
        starts = range(0, len(self.z), channels)
        parts = [self._part(slice(start, start + channels)) for start in starts]
        steps = step.split(channels)
        return torch.cat([part._search(own) for part, own in zip(parts, steps, strict=True)])

    def _part(self, channels: slice) -> LevelFit:
        """The same for some of the channels."""
        part = copy.copy(self)
        part.z, part.y = self.z[channels], self.y[channels]
        part.largest, part.typical = self.largest[channels], self.typical[channels]
        part.root = None if self.root is None else self.root.expand_as(self.z)[channels]
        part.psi = self.psi[channels] if isinstance(self.psi, Tensor) and len(self.psi) > 1 else self.psi
        return part

    def _search(self, step: Tensor) -> Tensor:
        (least,) = self.errors([step])
        least = least - _ROUNDING * ranks.total(self.y.square().sum(1))
        low, high = 0.7 * self.typical + 1e-12, 1.15 * self.largest.clamp_min(1e-12)
        # geometric, so that an outlier of any size leaves candidates for the rest
        coarse = [low * (high / low) ** (i / (_COARSE - 1)) / self.max_level for i in range(_COARSE)]
        step, least = self._best(coarse, step, least)
        return self._best([step * factor for factor in _FINE], step, least)[0]

    def _best(self, candidates: list[Tensor], step: Tensor, least: Tensor) -> tuple[Tensor, Tensor]:
        for candidate, error in zip(candidates, self.errors(candidates), strict=True):
            step, least = torch.where(error < least, candidate, step), torch.minimum(least, error)
        return step, least


def _range(y: Tensor) -> tuple[Tensor, Tensor]:
    """The largest magnitude of each channel, and the mean of those that are not 0."""
    size = y.abs()
    total, active = ranks.total(torch.stack([size.sum(1), (size > 0).sum(1).to(size)]))
    return ranks.largest_in_rows(size), total / active.clamp_min(1)
