r"""Quantisers: from the current that a neuron received to the integer level that it emits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class _StraightThrough(torch.autograd.Function):
    """Returns the first argument exactly; the gradient goes to the second."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, line: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:
        return None, grad


def straight_through(value: Tensor, line: Tensor) -> Tensor:
    """``value`` exactly, with the gradient of ``line``."""
    return _StraightThrough.apply(value, line) if torch.is_grad_enabled() and line.requires_grad else value


def full_precision(x: Tensor) -> Tensor:
    """float16 and bfloat16 cannot tell neighbouring levels apart; work on them in float32."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def finite_start(x_seq: Tensor) -> Tensor:
    """
    The first step of ``[T, N, ...]``, from which sums over time take differences: an input that is the same at every
    step must give exactly that input, and rounding errors of T equal summands would move it across a tie. Zero where
    the step is infinite or NaN, of which every difference would be NaN.
    """
    return x_seq[0].nan_to_num(0.0, 0.0, 0.0)  # a fifth of the time of isfinite() and where()


def level(
    total: Tensor, v_threshold: Tensor | float, psi: Tensor | float, max_level: float, min_level: float = 0
) -> Tensor:
    r"""
    The level of a neuron: :math:`k = \mathrm{clip}(\lfloor (\sum_t I_t + \psi) / \theta \rfloor, k_{min}, k_{max})`
    (closed form of the parallel neuron, ICML 2025, and of SpikePack's loop).

    :param total: summed current, any shape
    :param v_threshold: theta, broadcastable to ``total``
    :param psi: initial charge, ``theta / 2`` rounds to nearest
    :param max_level: the largest level of the code
    :param min_level: 0, or ``-max_level`` for signed outputs
    :return: integers in the dtype of ``total``; the gradient is that of the clipped line (straight-through floor)
    """
    return clip_to_levels((total + psi) / v_threshold, max_level, min_level, overwrite=True)


def clip_to_levels(line: Tensor, max_level: float, min_level: float = 0, overwrite: bool = False) -> Tensor:
    r"""
    :param line: currents in units of one level, initial charge included, any shape
    :param max_level: the largest level of the code
    :param min_level: 0, or ``-max_level`` for signed outputs
    :param overwrite: whether the result may take the place of ``line``, if no gradient is recorded
    :return: :math:`\mathrm{clip}(\lfloor line \rfloor, k_{min}, k_{max})` in the dtype of ``line``, with the gradient
        of the clipped line (straight-through floor)
    """
    if torch.is_grad_enabled() and line.requires_grad:
        # hardtanh() is clamp() with a backward that takes a quarter of the time
        clipped = nn.functional.hardtanh(line, min_level, max_level)
        return straight_through(line.detach().floor().clamp_(min_level, max_level), clipped)
    return (line.floor_() if overwrite else line.floor()).clamp_(min_level, max_level)


def clip_to_bytes(line: Tensor, max_level: int, overwrite: bool = False) -> Tensor:
    """
    As :func:`clip_to_levels` with 0 as the smallest level, one byte a level and without a gradient.

    :param line: as there
    :param max_level: the largest level of the code, 255 at most
    :param overwrite: whether ``line`` may be written to
    :return: uint8; of a NaN it is some level
    """
    clipped = line.clamp_(0, max_level) if overwrite else line.clamp(0, max_level)
    # torch has vector instructions for both of these casts and for none at once; both cut off what floor() would
    return clipped.to(torch.int16).to(torch.uint8)


def da_qcfs(
    x: Tensor,
    v_threshold: Tensor | float,
    levels: int,
    shift: Tensor | float = 0.0,
    amplitude: Tensor | float | None = None,
    psi: Tensor | float | None = None,
) -> Tensor:
    r"""
    DA-QCFS (ICML 2025), with :math:`\psi = \theta / 2` unless given:

    .. math::
        \frac{\theta + \phi}{T} \,
        \mathrm{clip}\left(\left\lfloor \frac{(x + \psi_{DA}) T + \psi}{\theta} \right\rfloor, 0, T\right)

    :param x: activations, any shape
    :param v_threshold: theta, broadcastable to ``x``
    :param levels: T, the number of levels above zero
    :param shift: psi_DA
    :param amplitude: theta + phi_DA; ``None`` means ``v_threshold``
    :param psi: initial charge; ``None`` means ``v_threshold / 2``
    :return: same shape and dtype as ``x``. Its gradient, with respect to every argument, is the true one of the
        clipped line (the same expression without floor)
    """
    psi = v_threshold / 2 if psi is None else psi
    amplitude = v_threshold if amplitude is None else amplitude
    line = ((full_precision(x) + shift) * levels + psi) / v_threshold
    unit = amplitude / levels
    value = line.detach().floor().clamp_(0, levels) * (unit.detach() if isinstance(unit, Tensor) else unit)
    if torch.is_grad_enabled() and (line.requires_grad or (isinstance(unit, Tensor) and unit.requires_grad)):
        value = straight_through(value, line.clamp(0, levels) * unit)
    return value.to(x.dtype)


def qcfs(x: Tensor, v_threshold: Tensor | float, levels: int, psi: Tensor | float | None = None) -> Tensor:
    r"""
    QCFS (Bu et al., ICLR 2022): :func:`da_qcfs` without its two corrections.

    .. math:: \frac{\theta}{T} \, \mathrm{clip}\left(\left\lfloor \frac{x T + \psi}{\theta} \right\rfloor, 0, T\right)

    :param x: activations, any shape
    :param v_threshold: theta, broadcastable to ``x``
    :param levels: T~
    :param psi: initial charge; ``None`` means ``v_threshold / 2``
    :return: same shape and dtype as ``x``
    """
    return da_qcfs(x, v_threshold, levels, psi=psi)


def clip_relu(x: Tensor, v_threshold: Tensor) -> Tensor:
    """
    :param x: activations, any shape
    :param v_threshold: upper bound, broadcastable to ``x``
    :return: ``clip(x, 0, v_threshold)``
    """
    return torch.minimum(x.relu(), v_threshold.to(x.dtype))
