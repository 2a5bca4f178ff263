"""Networks at 8 bits without any conversion: how much of a conversion's error is nothing but rounding?"""

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


class EachActivation(TorchFunctionMode):
    """
    While it is entered, what an activation function returns is replaced.

    :param replace: ``what it returns -> what goes on``
    """

    def __init__(self, replace: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.replace = replace

    def __torch_function__(
        self, func: Callable, types: tuple, args: tuple = (), kwargs: dict[str, object] | None = None
    ) -> object:
        y = func(*args, **(kwargs or {}))
        return self.replace(y) if func in ACTIVATIONS else y


@torch.no_grad()
def rounded(model: nn.Module, images: Tensor) -> object:
    """
    What every conversion to 8 bits does, and nothing else: activations are rounded to 255 levels, the largest being
    the largest magnitude that the channel has in the ANN.

    :param model: any network
    :param images: ``[N, ...]``
    :return: its output
    """
    channel_dim = -1 if any(isinstance(module, nn.LayerNorm) for module in model.modules()) else 1
    steps = []

    def measure(y: Tensor) -> Tensor:
        others = [d for d in range(y.dim()) if d != channel_dim % y.dim()]
        steps.append((y.abs().amax(others, keepdim=True) / LEVELS).clamp_min(torch.finfo(y.dtype).tiny))
        return y

    with EachActivation(measure):
        model(images)
    in_order = iter(steps)

    def quantise(y: Tensor) -> Tensor:
        step = next(in_order)
        return (y / step).round().clamp(-LEVELS, LEVELS) * step

    with EachActivation(quantise):
        return model(images)


@torch.no_grad()
def bfloat16(model: nn.Module, images: Tensor) -> object:
    """
    :param model: any network
    :param images: ``[N, ...]``
    :return: its output with weights and activations of 8 significant bits
    """
    return copy.deepcopy(model).bfloat16()(images.bfloat16())
