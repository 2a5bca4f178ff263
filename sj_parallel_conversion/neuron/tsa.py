"""Canonic Signed Spikes and the ternary self-amplifying neuron (arXiv 2408.17245)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..errors import ConfigError
from ..functional import CODES, encode_like
from ..functional.quantise import full_precision
from ..parameters import as_integer
from .serial import SerialNode


class TSANode(SerialNode):
    r"""
    Ternary self-amplifying neuron: spikes in {-1, 0, 1} that weigh :math:`2^{T-t}`. The closed form rounds the input
    to a level and writes it as signed digits, canonical (no two non-zero neighbours) where T places hold that form and
    with as few non-zero digits as T places allow otherwise.

    The idea is that of Gu et al., arXiv 2408.17245. The serial form is this project's reconstruction from published
    descriptions: doubling membrane, half thresholds, ternary spikes and a silent step are the authors', the rest is
    derived. With :math:`I_n = 0` for n > T and :math:`\theta_k = 2^k \theta`, for n = 1..T+k:

    .. math::

        v \leftarrow 2 v + I_n; \quad s = \pm 1 \text{ if } \pm v \ge \theta_k / 2 \text{ (n > k)}; \quad
        v \leftarrow v - s\,\theta_k

    A negative spike is let through only while the output so far is positive, which makes the neuron a ReLU;
    ``signed=True`` drops that gate.

    :param serial: run the serial form, which sees the input step by step and so goes without ``activation``. Its input
        are amplified digits, most significant first; then, with one silent step, it differs from the closed form by
        one level at most. A constant current must come whole at the first step, as ``snn.execution = "serial"`` sees to
    :param silent_steps: k, how many steps the serial form listens before it fires
    :param backend: ``"torch"``, or ``"cupy"`` for one fused CUDA kernel (closed form only)

    :param options: ``psi``, ``shift``, ``amplitude``, ``channel_dim``, ``signed`` and ``activation`` as in
        :class:`SpikingNode`

    Shapes as in :class:`SpikingNode`; ``v_threshold`` is the value of one level.
    """

    code = CODES["signed_digit"]

    def __init__(
        self,
        T: int,
        v_threshold: float | Tensor = 1.0,
        *,
        serial: bool = False,
        silent_steps: int = 1,
        backend: str = "torch",
        **options: Any,
    ) -> None:
        super().__init__(T, v_threshold, **options)
        self.serial, self.silent_steps = serial, silent_steps
        self.backend = backend

    @property
    def silent_steps(self) -> int:
        """How many steps the serial form listens before it fires."""
        return self._silent_steps

    @silent_steps.setter
    def silent_steps(self, value: int) -> None:
        """:raises ConfigError: if the value is no integer from 0 to T"""
        steps = as_integer(value)
        if steps is None or not 0 <= steps <= self.T:
            raise ConfigError(f"TSANode: silent_steps must be an integer from 0 to T={self.T}, got {value!r}")
        self._silent_steps = steps

    @property
    def closed_form(self) -> bool:
        """Whether the node computes its level instead of running the serial form."""
        return not self.serial

    def _spikes(self, x_seq: Tensor) -> Tensor:
        if self.closed_form:
            return super()._spikes(x_seq)
        return encode_like(self._serial(x_seq), self._level(self._total_of(x_seq)), self.code)

    def constant(self, x: Tensor) -> Tensor:
        """As :meth:`SpikingNode.constant`; the serial form, which doubles what it has, gets all at the first step."""
        if self.closed_form:
            return super().constant(x)
        return torch.stack([self.T * x, *[torch.zeros_like(x)] * (self.T - 1)])

    def check_serial(self) -> None:
        """:raises ConfigError: if the node has no serial form, because it applies an activation"""
        if self.activation is not None:
            raise ConfigError(
                "TSANode: the serial form fires before it has seen its whole input, so it cannot apply an activation "
                "to the mean; use serial=False or activation=None"
            )

    @torch.no_grad()
    def _serial(self, x_seq: Tensor) -> Tensor:
        self.check_serial()
        k = self.silent_steps
        x_seq = full_precision(x_seq)
        v_threshold, psi = self._threshold_and_psi(x_seq[0])
        # Spikes come amplified by T w_t; the serial form doubles what it has instead, and so reads bare digits.
        # Constants are there from the first step on; half thresholds bring psi = theta / 2 with them.
        shift = 0 if self.folded_input else self._along(self.shift, x_seq[0]) * self._scale
        constant = shift + psi - v_threshold / 2
        weights = x_seq.new_tensor(self.code.weights(self.T)).view(-1, *[1] * (x_seq.dim() - 1))
        currents = x_seq / (v_threshold * self.T * weights)
        currents[0] += constant / (v_threshold * weights[0])
        v, emitted, spikes = torch.zeros_like(x_seq[0]), torch.zeros_like(x_seq[0]), []
        for n in range(self.T + k):
            v = 2 * v + currents[n] if n < self.T else 2 * v
            if n < k:
                continue
            emitted = 2 * emitted
            half = 2.0**k / 2
            negative = (v <= -half) & (torch.ones_like(v, dtype=torch.bool) if self.signed else emitted >= 1)
            spike = (v >= half).to(v.dtype) - negative.to(v.dtype)
            v, emitted = v - spike * 2**k, emitted + spike
            spikes.append(spike)
        return torch.stack(spikes)
