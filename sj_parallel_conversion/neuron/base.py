"""The neuron that all neurons of this package are: a quantiser, a code, and a backend that runs both."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .. import kernels
from ..compat import MultiStepModule
from ..hooks import records_gradient
from ..parameters import check_currents, check_steps
from .backend import BackendChoice
from .spike_train import SpikeCoder


class SpikingNode(BackendChoice, SpikeCoder, MultiStepModule):
    r"""
    A neuron that sees the whole time window. It takes the mean of its input over time, quantises it to a level k, and
    emits the code word of that level, a train of T spikes:

    .. math::

        k = \mathrm{clip}\left(\left\lfloor \frac{n\,f(\mathrm{mean}_t I_t + \psi_{DA}) + \psi}{\theta} \right\rfloor,
        k_{min}, k_{max}\right), \qquad s = \mathrm{code}(k)

    Here n is T for the sorted code, so that the sum of the input is compared with the threshold. It is 1 for weighted
    codes. f is the activation that the neuron stands for. For a ReLU it is the identity, because :math:`k_{min} = 0`
    cuts off negative values already.

    Shapes: input ``[T, N, ...]``, spikes ``[T, N, ...]``. An input that is expanded along time (stride 0) is read once.

    The node is always multi-step. It has no ``step_mode``, like SpikingJelly's ``PSN``, so that
    ``functional.set_step_mode`` passes over it in a network of either step mode.

    In a converted network, parts of the node's arithmetic may have moved into the weights around it. The attributes
    ``folded_input`` and ``folded_output`` say so, see
    :class:`~sj_parallel_conversion.neuron.node_parameters.NodeParameters`.

    :param T: number of time-steps
    :param v_threshold: theta > 0, a number or one value a channel
    :param psi: initial charge. ``None`` means ``v_threshold / 2``, which rounds to the nearest level
    :param shift: psi_DA, added to the mean input. A number or one value a channel
    :param amplitude: theta + phi_DA, what the spikes stand for. ``None`` means ``v_threshold``
    :param channel_dim: the axis of ``[N, C, ...]`` (without time) along which values of channels lie
    :param signed: whether the output may be negative, :math:`k_{min} = -k_{max}` instead of 0. A code without a
        negative symbol then emits a pair of trains, one for positive and one for negative levels. At most one of the
        two fires, so that both are written in one tensor of {-1, 0, 1}
    :param activation: f, a module that works on each value of ``[N, ...]`` alone. ``None`` is the identity
    :param backend: ``"torch"``, or ``"cupy"`` for one fused CUDA kernel. A node with an ``activation`` runs on torch
        with either backend
    :raises ConfigError: if an argument is out of range, or the backend cannot be used here
    """

    def __init__(
        self,
        T: int,
        v_threshold: float | Tensor = 1.0,
        psi: float | Tensor | None = None,
        shift: float | Tensor = 0.0,
        amplitude: float | Tensor | None = None,
        channel_dim: int = 1,
        signed: bool = False,
        activation: nn.Module | None = None,
        backend: str = "torch",
    ) -> None:
        super().__init__(T, v_threshold, psi, shift, amplitude, channel_dim, signed, activation)
        self.backend = backend

    def forward(self, x_seq: Tensor) -> Tensor:
        """
        :param x_seq: input currents ``[T, N, ...]``
        :return: spikes ``[T, N, ...]`` in :attr:`symbols`, in the dtype of ``x_seq``
        :raises DataError: if ``x_seq`` is no tensor of floating-point numbers, or its first axis is not T
        """
        self._check_input(x_seq)
        return kernels.spike_train(self, x_seq, self._torch_train) if self._fused else self._torch_train(x_seq)

    def spikes(self, x_seq: Tensor) -> Tensor:
        """
        As :meth:`forward`, but with one byte a spike where that can be: in the closed form, and when no gradient is
        recorded. An input with a NaN gives floats, of which the trains of these values are NaN. The fused kernel does
        not look for NaN and emits no spike there.
        """
        self._check_input(x_seq)
        if records_gradient(x_seq, *self.parameters()) or not self.closed_form:
            return self(x_seq)
        if self._fused:
            return kernels.spike_train(self, x_seq, self._torch_train, torch.int8)
        return self._torch_bytes(x_seq)

    def decoded(self, x: Tensor, overwrite: bool = False) -> Tensor:
        """
        The packed form of the node: what its spike train stands for, without the train.

        :param x: mean input ``[N, ...]``
        :param overwrite: whether the result may take the place of ``x``, if no gradient is recorded
        :return: ``[N, ...]``, equal to ``decode(forward(x_seq))`` for any ``x_seq`` with this mean
        :raises DataError: if ``x`` is no tensor of floating-point numbers
        """
        check_currents(type(self).__name__, x)
        if self._fused:
            return kernels.decoded(self, x, self._torch_decoded)
        return self._torch_decoded(x, overwrite)

    def _check_input(self, x_seq: Tensor) -> None:
        check_currents(type(self).__name__, x_seq)
        check_steps(type(self).__name__, x_seq, self.T)
