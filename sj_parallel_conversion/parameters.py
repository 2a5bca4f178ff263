"""Parameters and inputs of neurons and activations: one place that checks and broadcasts them."""

from __future__ import annotations

import operator
from functools import cache
from typing import SupportsIndex, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from .errors import ConfigError, DataError

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def check_flag(owner: str, name: str, value: object) -> None:
    """:raises ConfigError: if ``value`` is not a bool: a string or a tensor is seldom what was meant"""
    if not isinstance(value, bool):
        raise ConfigError(f"{owner}: {name} must be True or False, got {value!r}")


def as_integer(value: object) -> int | None:
    """``value`` as an int, if it is an integer of any kind, such as ``numpy.int64``; ``None`` otherwise."""
    if isinstance(value, bool) or getattr(value, "dtype", None) is torch.bool:  # True is an integer to Python
        return None
    try:
        return operator.index(cast(SupportsIndex, value))
    except TypeError:
        return None


def neuron_parameter(owner: str, name: str, value: float | Tensor, positive: bool = False) -> nn.Parameter:
    """
    :param owner: who asks, for the error message
    :param name: the argument's name, for the error message
    :param value: a number, or a tensor that is a scalar or has one value a channel
    :param positive: whether values <= 0 are refused
    :return: a float parameter of shape ``[]`` or ``[C]``, with its own storage
    :raises ConfigError: if the value is no number or not finite, has more than one dimension, or is not positive where
        it must be
    """
    try:
        tensor = torch.as_tensor(value).detach().clone()
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(f"{owner}: {name} must be a number or a tensor, got {value!r}") from error
    if tensor.dtype == torch.bool or tensor.is_complex() or tensor.layout != torch.strided:
        raise ConfigError(f"{owner}: {name} must be a real number or a dense tensor of such, got {value!r}")
    if not tensor.is_floating_point():
        tensor = tensor.to(torch.get_default_dtype())
    if tensor.dim() > 1 or tensor.numel() == 0:
        raise ConfigError(f"{owner}: {name} must be a scalar or one value a channel, got shape {list(tensor.shape)}")
    if tensor.is_meta:  # a model that will be given its values later
        return nn.Parameter(tensor)
    if not torch.isfinite(tensor).all():
        raise ConfigError(f"{owner}: {name} must be finite, got {value!r}")
    if positive and not (tensor > 0).all():
        raise ConfigError(f"{owner}: {name} must be > 0, got {value!r}")
    return nn.Parameter(tensor)


def check_currents(owner: str, x: object) -> None:
    """:raises DataError: if ``x`` is no dense tensor of floating-point numbers that the neurons can compute with"""
    if not isinstance(x, Tensor) or x.dtype not in _FLOATS or x.layout != torch.strided:
        kind = f"{x.dtype}, {x.layout}" if isinstance(x, Tensor) else type(x).__name__
        raise DataError(f"{owner} needs a dense tensor of floating-point numbers of 16 bits or more, got {kind}")


def check_steps(owner: str, x_seq: object, T: int) -> None:
    """:raises DataError: if ``x_seq`` is no tensor ``[T, N, ...]``"""
    if not isinstance(x_seq, Tensor) or x_seq.dim() == 0 or x_seq.shape[0] != T:
        got = f"shape {list(x_seq.shape)}" if isinstance(x_seq, Tensor) else type(x_seq).__name__
        raise DataError(f"{owner}(T={T}) needs an input [T={T}, N, ...], got {got}")


@cache
def _has_float64(device: torch.device) -> bool:
    try:
        return torch.empty(0, dtype=torch.float64, device=device).dtype == torch.float64
    except (TypeError, RuntimeError):
        return False


def exact(x: Tensor) -> Tensor:
    """``x`` in float64; on the CPU where its own device has none, as Apple's MPS."""
    return (x if _has_float64(x.device) else x.cpu()).double()


def float_type(x: Tensor) -> torch.dtype:
    """The dtype of ``x``; torch's default for a tensor of integers."""
    return x.dtype if x.is_floating_point() else torch.get_default_dtype()


def evaluate(module: nn.Module, x: Tensor) -> Tensor:
    """
    :param module: an activation
    :param x: its input
    :return: ``module(x)``, computed in the dtype of ``x`` whatever that of the module's own parameters is
    """
    own = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    other = {name: t.to(x.dtype) for name, t in own.items() if t.is_floating_point() and t.dtype != x.dtype}
    return functional_call(module, other, (x,)) if other else module(x)


def along_channels(parameter: Tensor, x: Tensor, channel_dim: int, owner: str) -> Tensor:
    """
    :param parameter: ``[]`` or ``[C]``
    :param x: activations ``[N, ...]`` (no time axis)
    :param channel_dim: the axis of ``x`` that holds the C channels
    :param owner: who asks, for the error message
    :return: ``parameter``, shaped so that it broadcasts over ``x``, in the dtype of ``x`` or float32 if that is lower
    :raises DataError: if ``x`` has no such axis or another number of channels, or is on another device
    """
    # The equations run in float32 at least: half precision cannot tell neighbouring levels apart.
    parameter = parameter.to(torch.promote_types(x.dtype, torch.float32))
    if parameter.dim() == 0:
        return parameter
    if parameter.device != x.device:
        raise DataError(f"{owner} has parameters on {parameter.device}, but got an input on {x.device}")
    dim = channel_dim + x.dim() if channel_dim < 0 else channel_dim
    if not 0 <= dim < x.dim() or x.shape[dim] != parameter.numel():
        raise DataError(
            f"{owner} has parameters for {parameter.numel()} channels along channel_dim={channel_dim}, "
            f"but got an input of shape {list(x.shape)} (without the time axis)"
        )
    return parameter.view([-1 if i == dim else 1 for i in range(x.dim())])
