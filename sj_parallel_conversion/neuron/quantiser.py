"""The quantiser of a neuron: from its mean input to an integer level, and to the value that the level stands for."""

from __future__ import annotations

import torch
from torch import Tensor

from ..functional import clip_to_bytes, clip_to_levels, level, straight_through
from ..functional.quantise import finite_start, full_precision
from ..parameters import check_currents, evaluate
from .node_parameters import NodeParameters


class Quantiser(NodeParameters):
    r"""
    The first half of a neuron. Nothing here knows spikes.

    .. math::

        k = \mathrm{clip}\left(\left\lfloor \frac{n\,f(\mathrm{mean}_t I_t + \psi_{DA}) + \psi}{\theta} \right\rfloor,
        k_{min}, k_{max}\right)

    The factor n is T for the sorted code, which compares the sum of its input with the threshold, and 1 for weighted
    codes, which compare the mean. The code below calls the numerator without :math:`\psi` the total.
    """

    @property
    def min_level(self) -> float:
        """The smallest level that the node emits."""
        return -self.code.max_level(self.T) if self.signed else 0

    def charge(self, x: Tensor) -> Tensor:
        """
        :param x: mean input ``[N, ...]``
        :return: the value that is quantised, f(x + psi_DA), in float32 or float64
        """
        x = full_precision(x)
        if self.folded_input:
            return x
        x = x + self._along(self.shift, x)
        if self.formula is not None:
            line = torch.minimum(x.clamp_min(0), self._along(self.v_threshold, x))
            return straight_through(evaluate(self.formula, x), line)
        return x if self.activation is None else evaluate(self.activation, x)

    def level(self, x: Tensor) -> Tensor:
        """
        :param x: mean input ``[N, ...]``
        :return: the level that the node emits for it, ``[N, ...]``, integers in float32 or float64
        :raises DataError: if ``x`` is no tensor of floating-point numbers
        """
        check_currents(type(self).__name__, x)
        return self._level(self._total(x))

    @torch.no_grad()
    def level_bytes(self, x: Tensor, overwrite: bool = False) -> Tensor:
        """
        :param x: mean input ``[N, ...]``
        :param overwrite: whether ``x`` may be written to
        :return: as :meth:`level`, in uint8, for levels from 0 to 255 and without a gradient
        """
        check_currents(type(self).__name__, x)
        line = self._total(x) if self.folded_input else self.level(x)
        return clip_to_bytes(line, int(self.code.max_level(self.T)), overwrite or line is not x)

    def value(self, level: Tensor) -> Tensor:
        """:param level: ``[N, ...]``. :return: what it stands for, ``[N, ...]``"""
        if self.folded_output:
            return level
        value = level * (self._along(self._worth, level) / self.code.levels_per_threshold(self.T))
        if self.formula is None:
            return value
        # of an input in the middle of the level's step, so that no rounding makes another level of it
        v_threshold, psi = self._threshold_and_psi(level)
        middle = value + (v_threshold / 2 - psi) / self._scale
        return straight_through(evaluate(self.formula, middle), value)

    def _torch_decoded(self, x: Tensor, overwrite: bool = False) -> Tensor:
        """The value that the level of the mean input ``x`` stands for."""
        return self.value(self._level(self._total(x), overwrite)).to(x.dtype)

    def _level(self, total: Tensor, overwrite: bool = False) -> Tensor:
        """
        :param total: as :meth:`_total` gives it
        :param overwrite: whether the result may take the place of ``total``, if no gradient is recorded
        """
        max_level = self.code.max_level(self.T)
        if self.folded_input:
            return clip_to_levels(total, max_level, self.min_level, overwrite)
        return level(total, *self._threshold_and_charge(total), max_level, self.min_level)

    def _total(self, x: Tensor) -> Tensor:
        """n f(x + psi_DA) for a mean input ``x`` ``[N, ...]``."""
        charge = self.charge(x)
        return charge if self._scale == 1 else charge * self._scale

    def _total_of(self, x_seq: Tensor) -> Tensor:
        """
        The total of an input ``[T, N, ...]``. If all steps are equal, it is exactly the total of one step. A plain sum
        would round, and could so move a value across a threshold. Hence the sum of differences from the first step.
        """
        if x_seq.stride(0) == 0 or self.T == 1:
            return self._total(x_seq[0])
        x_seq = full_precision(x_seq)
        start = finite_start(x_seq)
        difference = (x_seq - start).sum(0)
        if self.activation is not None or self.formula is not None:
            return self._total(start + difference / self.T)
        n = self._scale
        return self._total(start) + (difference if n == self.T else difference * (n / self.T))

    @property
    def _scale(self) -> int:
        """The factor n. It is part of the weights before a node with ``folded_input``."""
        return 1 if self.folded_input else self.code.levels_per_threshold(self.T)

    def _threshold_and_psi(self, total: Tensor) -> tuple[Tensor, Tensor]:
        """The threshold and the initial charge, broadcastable to ``total``."""
        if self.folded_input:
            return total.new_ones(()), total.new_zeros(())
        v_threshold = self._along(self.v_threshold, total)
        return v_threshold, v_threshold / 2 if self.psi is None else self._along(self.psi, total)

    def _threshold_and_charge(self, total: Tensor) -> tuple[Tensor, Tensor]:
        """As :meth:`_threshold_and_psi`, for the result of the formula if there is one: it is a level's value."""
        v_threshold, psi = self._threshold_and_psi(total)
        return v_threshold, psi if self.formula is None else v_threshold / 2
