"""The spike train of a neuron: written from a level, read back, and amplified to what its spikes are worth."""

from __future__ import annotations

import torch
from torch import Tensor

from ..functional import decode, encode, encode_bytes
from ..functional.quantise import full_precision
from ..parameters import check_steps, float_type
from .quantiser import Quantiser


class SpikeCoder(Quantiser):
    """
    The second half of a neuron: the code word of its level, in torch's operations.

    A train holds the bare symbols of the code, so that monitors and counters see real spikes. What a spike is worth is
    applied afterwards, by :meth:`amplify`. The plain mean over time then decodes every code.
    """

    @property
    def symbols(self) -> tuple[int, ...]:
        """The values that a spike can take."""
        return (-1, 0, 1) if self.signed else self.code.symbols

    def constant(self, x: Tensor) -> Tensor:
        """:param x: mean input ``[N, ...]``. :return: an input ``[T, N, ...]`` with this mean, without a copy"""
        return x.expand(self.T, *x.shape)

    def decode(self, spike_seq: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """
        :param spike_seq: spikes ``[T, N, ...]`` of this node
        :param dtype: of the result. By default that of ``spike_seq``, or torch's default for a train of integers
        :return: ``[N, ...]``, the mean over time of :meth:`amplify`. It is computed from the exact integer level
        :raises DataError: if the first axis is not T
        """
        check_steps(type(self).__name__, spike_seq, self.T)
        dtype = dtype or float_type(spike_seq)
        exact = torch.float64 if dtype == torch.float64 else torch.float32
        return self.value(decode(spike_seq, self.code, exact)).to(dtype)

    def amplify(self, spike_seq: Tensor) -> Tensor:
        r"""
        :param spike_seq: spikes ``[T, N, ...]`` of this node
        :return: ``[T, N, ...]``, each spike times what it is worth at its step, :math:`A_t = T w_t \Delta`, where
            :math:`w_t` is the code's weight and :math:`\Delta` what one level stands for
        :raises DataError: if the first axis is not T
        """
        check_steps(type(self).__name__, spike_seq, self.T)
        dtype = float_type(spike_seq)
        unit = self.value(full_precision(torch.ones_like(spike_seq[0], dtype=dtype)))
        weights = unit.new_tensor(self.code.weights(self.T)) * self.T
        return (spike_seq * weights.view(-1, *[1] * unit.dim()) * unit).to(dtype)

    def _torch_train(self, x_seq: Tensor) -> Tensor:
        """Spikes for an input ``[T, N, ...]``, in its dtype, with a gradient."""
        return self._spikes(x_seq).to(x_seq.dtype)

    def _torch_bytes(self, x_seq: Tensor) -> Tensor:
        """The same without a gradient, one byte a spike, or in floats where the input holds a NaN."""
        level = self._level(self._total_of(x_seq))
        # A byte holds no NaN. Other levels are finite, so their sum is NaN only if one of them is. This is fifteen
        # times as fast as isnan().any().
        write = encode if level.sum().isnan() else encode_bytes
        return write(level, self.code, self.T, self.signed)

    def _spikes(self, x_seq: Tensor) -> Tensor:
        """Spikes in float32 or float64. Nodes that run a loop over time override this."""
        return encode(self._level(self._total_of(x_seq)), self.code, self.T, self.signed)
