"""Scalar and per-channel parameters of neurons and activations: one place that checks and broadcasts them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call

from .errors import ConfigError, DataError


def neuron_parameter(owner: str, name: str, value: float | Tensor, positive: bool = False) -> nn.Parameter:
    """
    :param owner: who asks, for the error message
    :param name: the argument's name, for the error message
    :param value: a number, or a tensor that is a scalar or has one value a channel
    :param positive: whether values <= 0 are refused
    :return: a float parameter of shape ``[]`` or ``[C]``, with its own storage
    :raises ConfigError: if the value is not finite, has more than one dimension, or is not positive where it must be
    """
    try:
        tensor = torch.as_tensor(value).detach().clone()
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(f"{owner}: {name} must be a number or a tensor, got {value!r}") from error
    if not tensor.is_floating_point():
        tensor = tensor.to(torch.get_default_dtype())
    if tensor.dim() > 1 or tensor.numel() == 0:
        raise ConfigError(f"{owner}: {name} must be a scalar or one value a channel, got shape {list(tensor.shape)}")
    if not torch.isfinite(tensor).all():
        raise ConfigError(f"{owner}: {name} must be finite, got {value!r}")
    if positive and not (tensor > 0).all():
        raise ConfigError(f"{owner}: {name} must be > 0, got {value!r}")
    return nn.Parameter(tensor)


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
    :raises DataError: if ``x`` has no such axis or another number of channels
    """
    # The equations run in float32 at least: half precision cannot tell neighbouring levels apart.
    parameter = parameter.to(torch.promote_types(x.dtype, torch.float32))
    if parameter.dim() == 0:
        return parameter
    dim = channel_dim + x.dim() if channel_dim < 0 else channel_dim
    if not 0 <= dim < x.dim() or x.shape[dim] != parameter.numel():
        raise DataError(
            f"{owner} has parameters for {parameter.numel()} channels along channel_dim={channel_dim}, "
            f"but got an input of shape {list(x.shape)} (without the time axis)"
        )
    return parameter.view([-1 if i == dim else 1 for i in range(x.dim())])
