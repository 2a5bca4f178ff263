"""Networks at 8 bits without any conversion: how much of a conversion's error is nothing but the rounding?"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

LEVELS = 255  # above zero, as the weighted codes have them at T = 8
ACTIVATIONS = {
    F.relu, F.hardtanh, F.relu6, F.gelu, F.silu, F.hardswish, F.hardsigmoid, F.sigmoid, torch.sigmoid, torch.tanh,
    torch.relu, Tensor.relu, Tensor.sigmoid,
}  # fmt: skip


class Rounding(TorchFunctionMode):
    """
    While it is entered, what an activation function returns is rounded to multiples of 1/255 of the largest magnitude
    that its own channel has in that very call. Nothing is clipped and all else stays as it is: no code of 8 bits a
    channel can know its range better.

    :param channel_dim: the axis that holds the channels
    """

    def __init__(self, channel_dim: int) -> None:
        super().__init__()
        self.channel_dim = channel_dim

    def __torch_function__(
        self, func: Callable, types: tuple, args: tuple = (), kwargs: dict[str, object] | None = None
    ) -> object:
        y = func(*args, **(kwargs or {}))
        if func not in ACTIVATIONS:
            return y
        others = [d for d in range(y.dim()) if d != self.channel_dim % y.dim()]
        step = (y.abs().amax(others, keepdim=True) / LEVELS).clamp_min(torch.finfo(y.dtype).tiny)
        return (y / step).round() * step


@torch.no_grad()
def rounded(model: nn.Module, images: Tensor) -> object:
    """
    :param model: any network
    :param images: ``[N, ...]``
    :return: its output with all activations rounded to 8 bits
    """
    transformer = any(isinstance(module, nn.LayerNorm) for module in model.modules())
    with Rounding(-1 if transformer else 1):
        return model(images)


@torch.no_grad()
def bfloat16(model: nn.Module, images: Tensor) -> object:
    """
    :param model: any network
    :param images: ``[N, ...]``
    :return: its output with weights and activations of 8 significant bits
    """
    return copy.deepcopy(model).bfloat16()(images.bfloat16())
