"""Sizes whose expressions grow long are fixed, unless the user waits for them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sj_parallel_conversion as sjpc

IMAGES = torch.randn(4, 3, 21, 21, generator=torch.Generator().manual_seed(0))


class Windows(nn.Module):
    """As in Swin: each stage pads its map to whole windows, cuts them, and halves the map."""

    def __init__(self, stages: int) -> None:
        super().__init__()
        self.stem, self.head, self.stages = nn.Conv2d(3, 4, 1), nn.Linear(4, 5), stages

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        for _ in range(self.stages):
            n, c, h, w = x.shape
            x = F.pad(x, (0, (7 - w % 7) % 7, 0, (7 - h % 7) % 7))
            h, w = x.shape[2:]
            x = x.view(n, c, h // 7, 7, w // 7, 7).transpose(3, 4).reshape(n, c, h, w)
            x = F.pad(x, (0, w % 2, 0, h % 2))[:, :, ::2, ::2]
        return self.head(x.mean((2, 3)))


def convert(stages: int, **options: object) -> sjpc.SpikingNetwork:
    return sjpc.ParallelConverter([IMAGES], show_progress=False, **options).convert(Windows(stages).eval())


def test_short_ones_stay_free() -> None:
    snn = convert(0)
    assert snn.predict(torch.randn(2, 3, 9, 16)).shape == (2, 5)


def test_long_ones_are_fixed_and_named() -> None:
    snn = convert(3)
    assert snn.predict(IMAGES[:1]).shape == (1, 5), "the batch axis stays free"
    with pytest.raises(sjpc.DataError, match=r"x\.shape\[2\] is 28, and has to be 21"):
        snn.predict(torch.randn(2, 3, 28, 21))


def test_fixed_if_asked_for() -> None:
    snn = convert(0, free_sizes=False)
    with pytest.raises(sjpc.DataError, match=r"x\.shape\[3\] is 16, and has to be 21"):
        snn.predict(torch.randn(2, 3, 21, 16))


@pytest.mark.parametrize("value", ["yes", 1, 0.5])
def test_what_it_can_be(value: object) -> None:
    with pytest.raises(sjpc.ConfigError, match="free_sizes must be None, True or False"):
        sjpc.ParallelConverter([IMAGES], free_sizes=value)
