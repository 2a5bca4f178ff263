"""What remains of amplitudes and thresholds where they cannot become part of a layer's weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Rescale(nn.Module):
    """
    ``x * factor``.

    :param factor: broadcastable to the values ``[N, ...]``
    """

    def __init__(self, factor: Tensor) -> None:
        super().__init__()
        self.factor = nn.Parameter(factor)

    def forward(self, x: Tensor) -> Tensor:
        """:param x: ``[N, ...]``. :return: same shape"""
        return x * self.factor


class RescaledAdd(Rescale):
    """``x + y * factor`` in one pass: a residual addition whose branches have different units."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """:param x: ``[N, ...]``. :param y: same shape. :return: same shape"""
        return torch.addcmul(x, y, self.factor)
