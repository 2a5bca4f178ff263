"""Quantisers as papers and libraries write them: modules of a number of levels and a threshold."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class StraightThroughFloor(torch.autograd.Function):
    """As in the code of most papers."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.floor()

    @staticmethod
    def backward(ctx: object, grad: Tensor) -> Tensor:
        return grad


class Quantiser(nn.Module):
    """
    :param function: of the value, the number of levels and the threshold
    :param levels: above zero
    :param threshold: a parameter, as in training
    """

    def __init__(self, function: Callable, levels: int, threshold: float) -> None:
        super().__init__()
        self.function, self.levels, self.threshold = function, levels, nn.Parameter(torch.tensor([threshold]))

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, self.levels, self.threshold)


def clip_floor_shift(x: Tensor, levels: int, threshold: Tensor) -> Tensor:
    """Bu et al., ICLR 2022."""
    x = x / threshold
    x = torch.clamp(x, 0, 1)
    x = StraightThroughFloor.apply(x * levels + 0.5) / levels
    return x * threshold


def pact(x: Tensor, levels: int, threshold: Tensor) -> Tensor:
    """Choi et al., 2018."""
    clipped = 0.5 * (x.abs() - (x - threshold).abs() + threshold)
    return torch.round(clipped * levels / threshold) * threshold / levels


def step_size(x: Tensor, levels: int, threshold: Tensor) -> Tensor:
    """Esser et al., 2020: the step is what is trained."""
    step = threshold / levels
    scaled = (x / step).clamp(0, levels)
    return ((scaled.round() - scaled).detach() + scaled) * step


# Spelling, and the share of a step by which it is shifted: 0.5 rounds to nearest.
QUANTISERS: dict[str, tuple[Callable, float]] = {
    "clip, floor, shift": (clip_floor_shift, 0.5),
    "PACT": (pact, 0.5),
    "step size": (step_size, 0.5),
    "in place": (lambda x, n, t: (x / t).clamp_(0, 1).mul_(n).add_(0.5).floor_().div_(n).mul_(t), 0.5),
    "clip behind the floor": (lambda x, n, t: torch.floor(x * n / t + 0.5).clamp(0, n) / n * t, 0.5),
    "clip to the threshold": (lambda x, n, t: torch.round(torch.clamp(x, torch.zeros(1), t) / t * n) / n * t, 0.5),
    "relu and minimum": (lambda x, n, t: torch.round(torch.minimum(F.relu(x), t) * n / t) * t / n, 0.5),
    "hardtanh": (lambda x, n, t: (F.hardtanh(x / t, 0, 1) * n + 0.5).floor() * t / n, 0.5),
    "ceil": (lambda x, n, t: torch.ceil((x / t).clamp(0, 1) * n - 0.5) / n * t, 0.5),
    "trunc": (lambda x, n, t: torch.trunc((x / t).clamp(0, 1) * n + 0.5) / n * t, 0.5),
    "floor division": (lambda x, n, t: ((x / t).clamp(0, 1) * n + 0.5) // 1 / n * t, 0.5),
    "fake quantisation": (
        lambda x, n, t: torch.fake_quantize_per_tensor_affine(x, t / n, torch.zeros(1, dtype=torch.int32), 0, n), 0.5,
    ),
    "floor without shift": (lambda x, n, t: torch.floor((x / t).clamp(0, 1) * n) / n * t, 0.0),
    "a quarter of a step": (lambda x, n, t: torch.floor((x / t).clamp(0, 1) * n + 0.25).clamp(max=n) / n * t, 0.25),
}  # fmt: skip

OTHERS: dict[str, Callable] = {
    "relu": lambda x, n, t: F.relu(x),
    "relu6": lambda x, n, t: F.relu6(x),
    "no top": lambda x, n, t: torch.round(F.relu(x) * n / t) * t / n,
    "signed": lambda x, n, t: torch.round((x / t).clamp(-1, 1) * n) / n * t,
    "powers of two": lambda x, n, t: torch.exp2(torch.round(torch.log2(x.clamp(0.1, 1)))) - 0.125,
    "uneven": lambda x, n, t: torch.round((x / t).clamp(0, 1) * n) ** 2 / n * t,
    "above zero": lambda x, n, t: torch.round((x / t).clamp(0, 1) * n) / n * t + 0.5,
    "falling": lambda x, n, t: t - torch.round((x / t).clamp(0, 1) * n) / n * t,
    "a dead zone": lambda x, n, t: torch.round((x / t).clamp(0, 1) * n) * (x > t / 2) / n * t,
    "soft": lambda x, n, t: torch.sigmoid(8 * (x / t - 0.5)) * t,
}
