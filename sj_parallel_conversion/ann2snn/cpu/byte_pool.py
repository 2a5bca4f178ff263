"""Maxima of levels in bytes."""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn


class ByteMaxPool2d(nn.MaxPool2d):
    """Max pooling that takes bytes as well, for which torch's own has no kernel. Floats and bytes give the same."""

    def forward(self, x: Tensor) -> Tensor:
        """:param x: ``[N, C, H, W]``. :return: of the same dtype"""
        if x.dtype != torch.uint8:
            return super().forward(x)
        form = (self.kernel_size, self.stride, self.padding, self.dilation)
        return torch.ops.quantized.max_pool2d(x, *map(_pair, form), self.ceil_mode)


def _pair(value: int | tuple[int, ...]) -> list[int]:
    return list(value) if isinstance(value, tuple) else [value, value]


@functools.cache
def pools_bytes() -> bool:
    """Whether this torch has a kernel for bytes that are no quantised tensors. It is tried: its schema does not say."""
    x = torch.arange(25, dtype=torch.uint8, device="cpu").view(1, 1, 5, 5)
    pool = ByteMaxPool2d(3, 2, 1)
    try:
        return torch.equal(pool(x).float(), pool(x.float()))
    except (RuntimeError, AttributeError):
        return False


def let_pool_bytes(module: nn.Module | None) -> None:
    """:param module: of a network; if it is max pooling, it takes bytes afterwards"""
    if type(module) is nn.MaxPool2d and not module.return_indices:
        # A new class and not a new module: hooks stay, and so does what other modules know of it.
        module.__class__ = ByteMaxPool2d
