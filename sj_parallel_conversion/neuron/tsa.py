"""Canonic Signed Spikes and the ternary self-amplifying neuron (arXiv 2408.17245)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import ConfigError
from ..functional import CODES, encode_like
from .base import SpikingNode


class TSANode(SpikingNode):
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

    A negative spike is let through only while the output so far is positive, which makes the neuron a ReLU.

    :param signed: drop that gate: the output may be negative
    :param serial: run the serial form, which sees the input step by step; with one silent step it differs from the
        closed form by one level at most
    :param silent_steps: k, how many steps the serial form listens before it fires

    :param options: ``psi``, ``shift``, ``amplitude``, ``channel_dim`` as in :class:`SpikingNode`

    Shapes as in :class:`SpikingNode`; ``v_threshold`` is the value of one level.
    """

    code = CODES["signed_digit"]

    def __init__(
        self,
        T: int,
        v_threshold: float | Tensor = 1.0,
        *,
        signed: bool = False,
        serial: bool = False,
        silent_steps: int = 1,
        **options: object,
    ) -> None:
        if isinstance(silent_steps, bool) or not isinstance(silent_steps, int) or silent_steps < 0:
            raise ConfigError(f"TSANode: silent_steps must be an integer >= 0, got {silent_steps!r}")
        super().__init__(T, v_threshold, **options)
        self.signed, self.serial, self.silent_steps = signed, serial, silent_steps

    @property
    def _min_level(self) -> int:
        return -self.code.max_level(self.T) if self.signed else 0

    def spikes(self, x_seq: Tensor) -> Tensor:
        """As :meth:`SpikingNode.spikes`; the serial form gives floats."""
        if not self.serial:
            return super().spikes(x_seq)
        return encode_like(self._serial(x_seq), self._level(self._total_of(x_seq)), self.code)

    @torch.no_grad()
    def _serial(self, x_seq: Tensor) -> Tensor:
        k = self.silent_steps
        x_seq = torch.stack([self._total(x) for x in x_seq])
        v_threshold, psi = self._threshold_and_psi(x_seq[0])
        # The hardware form injects each step with its own weight; half thresholds bring psi = theta / 2 with them.
        weights = x_seq.new_tensor(self.code.weights(self.T)).view(-1, *[1] * (x_seq.dim() - 1))
        currents = (x_seq + psi - v_threshold / 2) / (v_threshold * self.T * weights)
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
