"""Networks with layers that are not quite torch's own, and a conversion that is nearly exact."""

from __future__ import annotations

from collections.abc import Callable

import torch
from nets import IMAGES, lively
from torch import Tensor, nn
from torch.nn import functional as F

import sj_parallel_conversion as sjpc

EXACT = {"mode": "css", "time_steps": 12, "threshold": "max", "show_progress": False}


def convert(ann: nn.Module, x: Tensor = IMAGES, **options: object) -> sjpc.SpikingNetwork:
    return sjpc.ParallelConverter([x], **EXACT | options).convert(ann)


@torch.no_grad()
def assert_near(snn: sjpc.SpikingNetwork, ann: nn.Module, x: Tensor = IMAGES) -> None:
    """css with 12 steps has 4096 levels."""
    torch.testing.assert_close(snn.predict(x), ann(x), rtol=0, atol=0.01 * float(ann(x).abs().max()))


class SquaredReLU(nn.ReLU):
    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x) ** 2


class StandardisedConv(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        w = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return self._conv_forward(x, w / w.std((1, 2, 3), keepdim=True), self.bias)


class SamePadding(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(F.pad(x, (0, 1, 1, 0)), self.weight, self.bias, self.stride, self.padding)


class Doubled(nn.BatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 2 + 1


class ActivatedNorm(nn.BatchNorm2d):
    """Norm and activation in one, as in image models."""

    def forward(self, x: Tensor) -> Tensor:
        y = F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.1, self.eps)
        return F.relu(y)


class Residual(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


class Masked(nn.Linear):
    def __init__(self, *size: int) -> None:
        super().__init__(*size)
        self.register_buffer("mask", (torch.arange(self.weight.numel()) % 3 > 0).float().view_as(self.weight))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.mask, self.bias)


KINDS: dict[str, Callable[[], nn.Module]] = {
    "squared ReLU": SquaredReLU,
    "standardised convolution": lambda: nn.Sequential(StandardisedConv(6, 6, 3), nn.BatchNorm2d(6), nn.ReLU()),
    "same padding": lambda: nn.Sequential(SamePadding(6, 6, 2), nn.BatchNorm2d(6), nn.ReLU()),
    "doubled norm": lambda: nn.Sequential(Doubled(6), nn.ReLU()),
    "activated norm": lambda: nn.Sequential(nn.Conv2d(6, 6, 3), ActivatedNorm(6)),
    "residual": lambda: nn.Sequential(Residual(nn.Conv2d(6, 6, 1), nn.ReLU()), nn.ReLU()),
    "masked": lambda: nn.Sequential(nn.Flatten(2), Masked(100, 20), nn.ReLU()),
}


def net(kind: str) -> nn.Module:
    torch.manual_seed(0)
    return lively(nn.Sequential(nn.Conv2d(3, 6, 3), KINDS[kind](), nn.Flatten(), nn.LazyLinear(5)), IMAGES)
