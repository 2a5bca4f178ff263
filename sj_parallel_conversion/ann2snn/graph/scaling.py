"""Scaling the inputs and outputs of layers through their weights, channel by channel."""

from __future__ import annotations

from typing import TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.utils.parametrize import is_parametrized

from ...hooks import has_hooks
from ...parameters import exact

Weighted = nn.Linear | _ConvNd
Layer = Weighted | _BatchNorm | nn.LayerNorm

_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def takes_input_scale(layer: nn.Module) -> TypeGuard[Weighted]:
    """Whether :func:`scale_input` applies to ``layer``."""
    # Exact types: a subclass may do anything with its weight. A weight that is computed anew at each call would undo
    # the change.
    known = type(layer) in (*_CONVS, *_TRANSPOSED, nn.Linear)
    return known and _computes_alone(layer) and layer._parameters.get("weight") is not None


def takes_output_scale(layer: nn.Module) -> TypeGuard[Layer]:
    """Whether :func:`scale_output` applies to ``layer``."""
    if type(layer) is nn.LayerNorm:
        return layer.weight is not None and layer.weight.dim() == 1 and _computes_alone(layer)
    return takes_input_scale(layer) or (type(layer) in _NORMS and bool(layer.affine) and _computes_alone(layer))


def _computes_alone(layer: nn.Module) -> bool:
    # a hook may change what goes in and what comes out, and one that listens expects the ANN's units
    return not is_parametrized(layer) and not has_hooks(layer)


def channel_dim(layer: nn.Module, dims: int) -> int:
    """The axis of the channels, in the input and the output of ``layer``, of ``dims`` axes."""
    return dims - 1 if isinstance(layer, (nn.Linear, nn.LayerNorm)) else 1


def scale_output(layer: Layer, factor: Tensor, offset: Tensor | None = None) -> None:
    """
    Make ``layer`` return ``factor * layer(x) + offset``.

    :param layer: its weights are replaced, not written to, because other layers may share them
    :param factor: ``[]`` or ``[out_channels]``
    :param offset: the same
    """
    weight, bias = layer.weight, layer.bias
    if isinstance(layer, _ConvTransposeNd):
        factor_of_weight = _grouped(factor.expand(layer.out_channels), layer)
    else:
        factor_of_weight = factor.expand(len(weight))
    layer.weight = _times(weight, factor_of_weight)
    if bias is None and offset is None:
        return
    new = torch.zeros(()) if bias is None else exact(bias) * factor
    new = new if offset is None else new + offset
    channels = layer.out_channels if isinstance(layer, _ConvTransposeNd) else len(weight)
    layer.bias = nn.Parameter(new.expand(channels).to(weight).clone(), weight.requires_grad)


def scale_input(layer: Weighted, factor: Tensor) -> None:
    """
    Make ``layer`` return ``layer(factor * x)``.

    :param layer: its weights are replaced, not written to
    :param factor: ``[in_channels]``
    """
    if isinstance(layer, _ConvTransposeNd):
        layer.weight = _times(layer.weight, factor)
    elif isinstance(layer, _ConvNd):
        layer.weight = _times(layer.weight, _grouped(factor, layer))
    else:
        layer.weight = _times(layer.weight, factor.unsqueeze(0))


def _grouped(factor: Tensor, conv: _ConvNd) -> Tensor:
    # The second axis of the weight counts channels within a group, and the first runs through the groups.
    groups, rows = conv.groups, conv.weight.shape[0] // conv.groups
    return factor.view(groups, 1, -1).expand(-1, rows, -1).flatten(0, 1)


def _times(weight: Tensor, factor: Tensor) -> nn.Parameter:
    factor = factor.reshape(*factor.shape, *[1] * (weight.dim() - factor.dim()))
    # rounded once, and laid out in memory as before
    wide = exact(weight)
    scaled = torch.empty_like(weight).copy_(wide * factor.to(wide))
    return nn.Parameter(scaled, weight.requires_grad)
