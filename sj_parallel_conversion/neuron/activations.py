"""Activations that neurons stand for: trainable ones that convert without loss (QCFS and its relatives), and marks."""

from __future__ import annotations

from torch import Tensor, nn

from ..errors import ConfigError
from ..functional import clip_relu, da_qcfs, qcfs
from ..parameters import along_channels, as_integer, neuron_parameter


class _Activation(nn.Module):
    """A learnable threshold, a scalar or one value a channel along ``channel_dim`` of ``[N, C, ...]``."""

    def __init__(self, v_threshold: float | Tensor, channel_dim: int) -> None:
        super().__init__()
        self.v_threshold = neuron_parameter(type(self).__name__, "v_threshold", v_threshold, positive=True)
        self.channel_dim = channel_dim

    def _along(self, parameter: Tensor, x: Tensor) -> Tensor:
        return along_channels(parameter, x, self.channel_dim, type(self).__name__)

    def extra_repr(self) -> str:
        channels = self.v_threshold.numel()
        return f"channels={channels if channels > 1 else 'any'}, channel_dim={self.channel_dim}"


class _Quantiser(_Activation):
    def __init__(
        self, levels: int, v_threshold: float | Tensor, psi: float | Tensor | None, channel_dim: int
    ) -> None:
        number = as_integer(levels)
        if number is None or number < 1:
            raise ConfigError(f"{type(self).__name__}: levels must be an integer >= 1, got {levels!r}")
        super().__init__(v_threshold, channel_dim)
        self.levels = number
        self.psi = None if psi is None else neuron_parameter(type(self).__name__, "psi", psi)

    def _psi(self, x: Tensor) -> Tensor | None:
        return None if self.psi is None else self._along(self.psi, x)

    def extra_repr(self) -> str:
        return f"levels={self.levels}, {super().extra_repr()}"


class QCFS(_Quantiser):
    r"""
    Quantised clip-floor-shift activation (Bu et al., ICLR 2022) with a learnable threshold.

    .. math:: \frac{\theta}{L} \, \mathrm{clip}\left(\left\lfloor \frac{x L + \psi}{\theta} \right\rfloor, 0, L\right)

    A network trained with it converts without loss at ``time_steps == levels``. The gradient is that of the clipped
    line (straight-through floor). As in the paper nothing keeps the threshold positive in training; at 0 or below the
    activation means nothing, and the conversion refuses it by the layer's name.

    :param levels: number of levels above zero, L
    :param v_threshold: initial theta, a number (one threshold a layer, as in the paper) or a tensor ``[C]``
    :param psi: shift; ``None`` means ``v_threshold / 2`` and follows the threshold
    :param channel_dim: the axis of the input that holds the channels (-1 for ``[N, L, C]`` features)
    :raises ConfigError: if an argument is out of range
    """

    def __init__(
        self,
        levels: int,
        v_threshold: float | Tensor = 8.0,
        psi: float | Tensor | None = None,
        channel_dim: int = 1,
    ) -> None:
        super().__init__(levels, v_threshold, psi, channel_dim)

    def forward(self, x: Tensor) -> Tensor:
        """:param x: ``[N, C, ...]``, any rank. :return: same shape and dtype"""
        return qcfs(x, self._along(self.v_threshold, x), self.levels, self._psi(x))


class DAQCFS(_Quantiser):
    r"""
    QCFS with a shift before and an amplitude correction after it (ICML 2025).

    :param levels: number of levels above zero
    :param v_threshold: theta
    :param shift: psi_DA, added to the input; a number or ``[C]``
    :param phi: phi_DA, added to the amplitude; a number or ``[C]``
    :param psi: shift of the quantiser; ``None`` means ``v_threshold / 2``
    :param channel_dim: the axis of the input that holds the channels
    :raises ConfigError: if an argument is out of range
    """

    def __init__(
        self,
        levels: int,
        v_threshold: float | Tensor = 8.0,
        shift: float | Tensor = 0.0,
        phi: float | Tensor = 0.0,
        psi: float | Tensor | None = None,
        channel_dim: int = 1,
    ) -> None:
        super().__init__(levels, v_threshold, psi, channel_dim)
        self.shift = neuron_parameter("DAQCFS", "shift", shift)
        self.phi = neuron_parameter("DAQCFS", "phi", phi)

    def forward(self, x: Tensor) -> Tensor:
        """:param x: ``[N, C, ...]``, any rank. :return: same shape and dtype"""
        theta = self._along(self.v_threshold, x)
        amplitude = theta + self._along(self.phi, x)
        return da_qcfs(x, theta, self.levels, self._along(self.shift, x), amplitude, self._psi(x))


class ClipReLU(_Activation):
    """
    ``clip(x, 0, v_threshold)``: the bridge from ReLU to DA-QCFS in training-free conversion (ICML 2025).

    :param v_threshold: upper bound, a number or a tensor ``[C]``
    :param channel_dim: the axis of the input that holds the channels
    :raises ConfigError: if an argument is out of range
    """

    def __init__(self, v_threshold: float | Tensor = 8.0, channel_dim: int = 1) -> None:
        super().__init__(v_threshold, channel_dim)

    def forward(self, x: Tensor) -> Tensor:
        """:param x: ``[N, C, ...]``, any rank. :return: same shape and dtype"""
        return clip_relu(x, self._along(self.v_threshold, x))


class SpikingIdentity(nn.Identity):
    """The identity, where a neuron with signed spikes is to stand: it makes spikes of a graded value."""


class SpikingShare(SpikingIdentity):
    """The same for values from 0 to 1 that reach 1: a neuron's levels span this range, and nothing is calibrated."""
