"""What remains of amplitudes and thresholds where they cannot become part of a layer's weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...hooks import may_overwrite


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


class ToLevels(nn.Module):
    """
    ``x * gain + offset`` in one pass: what a neuron does to a value that others read as it is.

    :param gain: broadcastable to the values ``[N, ...]``
    :param offset: the same
    """

    def __init__(self, gain: Tensor, offset: Tensor) -> None:
        super().__init__()
        self.gain, self.offset = nn.Parameter(gain), nn.Parameter(offset)

    def forward(self, x: Tensor) -> Tensor:
        """:param x: ``[N, ...]``. :return: same shape"""
        return torch.addcmul(self.offset, x, self.gain)


class ResidualAdd(nn.Module):
    """
    ``x + y * factor`` in one pass: an addition whose branches have different units.

    :param factor: broadcastable to the values ``[N, ...]``; ``None`` means 1
    :param source: the module that computes ``x``, which nothing else reads, or ``None`` if others do
    """

    def __init__(self, factor: Tensor | None, source: nn.Module | None) -> None:
        super().__init__()
        self.factor = None if factor is None else nn.Parameter(factor)
        self.source = () if source is None else (source,)  # a tuple, because it is no child

    def forward(self, x: Tensor, y: Tensor, overwrite: bool = True) -> Tensor:
        """
        :param x: ``[N, ...]``
        :param y: same shape; floats, or levels in bytes
        :param overwrite: whether the result may take the place of ``x``
        :return: same shape
        """
        overwrite = overwrite and may_overwrite(self.source, x, y, self.factor)
        if y.dtype == torch.uint8:  # levels of an int8 network; torch is slow where it mixes bytes and floats
            y = y.to(x.dtype)
        if self.factor is None:
            return x.add_(y) if overwrite else x + y
        return x.addcmul_(y, self.factor) if overwrite else torch.addcmul(x, y, self.factor)
