"""SpikePack (ICCV 2025)."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from ..errors import ConfigError
from ..functional import CODES, encode_like, greedy_digits, straight_through
from ..functional.coding import MAX_WEIGHTED_STEPS
from .serial import SerialNode


class SpikePackNode(SerialNode):
    r"""
    SpikePack neuron (Shen et al., ICCV 2025): binary spikes that weigh :math:`q_t = \tau^{T-t}`, most significant
    first, so that T steps carry 2^T levels at tau = 2. The paper's loop,

    .. math:: s_t = H(v - \theta q_t), \qquad v \leftarrow v - \theta q_t s_t, \qquad t = 1..T,

    writes ``clip(floor(v / theta), 0, 2^T - 1)`` in binary, which is the closed form used here. The paper starts
    from v = v_g (``psi=0.0``); the default adds ``v_threshold / 2`` and so rounds to nearest.

    :param tau: base of the weights, > 1. Other bases than 2 have no closed form and run the loop
    :param serial: run the paper's loop also for tau = 2; the result is the same
    :param backend: ``"torch"``, or ``"cupy"`` for one fused CUDA kernel (closed form only)

    :param options: ``psi``, ``shift``, ``amplitude``, ``channel_dim``, ``signed`` (tau = 2 only) and ``activation`` as
        in :class:`SpikingNode`

    Shapes as in :class:`SpikingNode`; ``v_threshold`` is the value of one level.
    """

    code = CODES["binary"]

    def __init__(
        self,
        T: int,
        v_threshold: float | Tensor = 1.0,
        *,
        tau: float = 2.0,
        serial: bool = False,
        backend: str = "torch",
        **options: Any,
    ) -> None:
        if isinstance(tau, bool) or not isinstance(tau, (int, float)) or not 1 < tau <= 2**MAX_WEIGHTED_STEPS:
            raise ConfigError(f"SpikePackNode: tau must be a number > 1 (2 is usual), got {tau!r}")
        super().__init__(T, v_threshold, **options)
        self.serial = serial
        if tau != 2 and self.signed:
            raise ConfigError(f"SpikePackNode: signed=True needs the closed form that only tau=2 has, got tau={tau}")
        if tau != 2:
            self.code = dataclasses.replace(self.code, base=tau, digits=None)
        if self.code.max_level(T) > 2**MAX_WEIGHTED_STEPS:
            raise ConfigError(
                f"SpikePackNode: tau={tau} is too large for T={T}: the weights of the spikes add up to more than "
                f"2^{MAX_WEIGHTED_STEPS}, of which float32 cannot tell neighbours apart"
            )
        self.backend = backend

    @property
    def tau(self) -> float:
        """Base of the spikes' weights."""
        return self.code.base

    @property
    def closed_form(self) -> bool:
        """Whether the node computes its level instead of running the loop."""
        return self.tau == 2 and not self.serial

    def _spikes(self, x_seq: Tensor) -> Tensor:
        if self.closed_form:
            return super()._spikes(x_seq)
        total = self._total_of(x_seq)
        return encode_like(self._loop(total), self._level(total), self.code)

    def _level(self, total: Tensor, overwrite: bool = False) -> Tensor:
        if self.tau == 2:
            return super()._level(total, overwrite)
        v_threshold, psi = self._threshold_and_charge(total)
        line = (total + psi) / v_threshold
        weights = line.new_tensor(self.code.weights(self.T))
        value = torch.tensordot(weights, self._loop(total), dims=1)
        return straight_through(value, line.clamp(0, self.code.max_level(self.T)))

    @torch.no_grad()
    def _loop(self, total: Tensor) -> Tensor:
        weights = self.code.weights(self.T)
        if self.signed:  # of the pair of neurons, one runs the loop on the level's magnitude
            k = self._level(total)
            return greedy_digits(k.abs(), weights) * k.sign()
        v_threshold, psi = self._threshold_and_charge(total)
        return greedy_digits((total + psi) / v_threshold, weights)
