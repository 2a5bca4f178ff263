"""What the outputs of a layer at some places are computed from, as the rows of a regression."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.conv import _ConvNd

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
Layer = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d


def count_places(layer: Layer, output: Tensor) -> int:
    """How many outputs with all their channels an image has."""
    return output[0, ..., 0].numel() if isinstance(layer, nn.Linear) else output[0, 0].numel()


def input_rows(layer: Layer, u: Tensor, places: Tensor) -> Tensor:
    """
    :param layer: a linear layer, or a convolution of any dimension, stride, padding, dilation and groups
    :param u: its input, a batch
    :param places: numbers of output places in each image, ``[N, places]``
    :return: ``[groups, N * places, features]``, float32; features are ordered as in :func:`to_weight`
    """
    u = u.float()
    if isinstance(layer, nn.Linear):
        return _at(u.unsqueeze(1).flatten(1, -2), places).flatten(0, 1).unsqueeze(0)
    u = _pad(layer, u)
    index = _patch_index(layer, u.shape[2:], places)
    # with the channels last a tap is one copy of them all
    taps = _at(u.flatten(2).transpose(1, 2).contiguous(), index.flatten(1))
    if layer.groups == 1:
        return taps.view(1, places.numel(), -1)
    taps = taps.view(places.numel(), index.shape[2], layer.groups, -1)
    return taps.permute(2, 0, 1, 3).flatten(2)


def output_rows(layer: Layer, y: Tensor, places: Tensor) -> Tensor:
    """``[groups, N * places, channels]``, float32, of an output ``y``."""
    if isinstance(layer, nn.Linear):
        return _at(y.unsqueeze(1).flatten(1, -2), places).flatten(0, 1).unsqueeze(0).float()
    rows = _at(y.flatten(2).transpose(1, 2), places).flatten(0, 1).float()
    return rows.view(len(rows), layer.groups, -1).transpose(0, 1)


def weight_rows(layer: Layer, weight: Tensor, like: Tensor, places: Tensor) -> Tensor:
    """``[N * places, 1]`` of a ``weight`` that is the same for all channels and broadcasts to the output ``like``."""
    weight = weight.float().expand_as(like)
    by_place = weight[..., 0] if isinstance(layer, nn.Linear) else weight[:, 0]
    return by_place.reshape(len(like), -1).gather(1, places).view(-1, 1)


def to_weight(layer: Layer, coefficients: Tensor) -> Tensor:
    """
    :param layer: the layer
    :param coefficients: ``[groups, features, channels]``: what rows times these give its output
    :return: the same as its ``weight``
    """
    groups, _, channels = coefficients.shape
    taps = layer.weight[0, 0].numel()
    by_tap = coefficients.reshape(groups, taps, -1, channels)
    return by_tap.permute(0, 3, 2, 1).reshape_as(layer.weight).to(layer.weight.dtype)


def from_weight(layer: Layer, weight: Tensor) -> Tensor:
    """The inverse of :func:`to_weight`."""
    groups = getattr(layer, "groups", 1)
    by_group = weight.reshape(groups, len(weight) // groups, weight.shape[1], -1)
    return by_group.permute(0, 3, 2, 1).flatten(1, 2)


def _at(x: Tensor, places: Tensor) -> Tensor:
    """``[N, places, channels]`` of ``x`` ``[N, all places, channels]``, which may be a view."""
    return x[torch.arange(len(x), device=x.device).unsqueeze(1), places]


def _pad(layer: _ConvNd, u: Tensor) -> Tensor:
    if layer.padding == "valid":
        return u
    if isinstance(layer.padding, str):  # "same"
        totals = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
        pairs = [(total // 2, total - total // 2) for total in totals]
    else:
        pairs = [(p, p) for p in layer.padding]
    flat = [amount for pair in reversed(pairs) for amount in pair]
    return F.pad(u, flat, mode="constant" if layer.padding_mode == "zeros" else layer.padding_mode)


def _patch_index(layer: _ConvNd, size: torch.Size, places: Tensor) -> Tensor:
    """Where in the flattened map the taps of each output place lie, ``[N, places, taps]``."""
    axes = list(zip(size, layer.kernel_size, layer.stride, layer.dilation, strict=True))
    counts = [(s - d * (k - 1) - 1) // step + 1 for s, k, step, d in axes]
    strides = [1]
    for s in reversed(size[1:]):
        strides.insert(0, strides[0] * s)
    starts = torch.zeros(1, dtype=torch.long)
    for count, (_, _, step, _), stride in zip(counts, axes, strides, strict=True):
        starts = (starts.unsqueeze(1) + torch.arange(count) * (step * stride)).flatten()
    taps = [
        sum(t * d * stride for t, (_, _, _, d), stride in zip(tap, axes, strides, strict=True))
        for tap in itertools.product(*(range(k) for k in layer.kernel_size))
    ]
    return starts.to(places.device)[places].unsqueeze(-1) + torch.tensor(taps, device=places.device)
