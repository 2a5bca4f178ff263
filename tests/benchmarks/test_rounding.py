"""Rounding without a conversion, which the zoo compares with."""

from __future__ import annotations

import torch
from rounding import rounded
from torch import nn


@torch.no_grad()
def test_rounding_has_255_levels_a_channel() -> None:
    torch.manual_seed(0)
    images = torch.randn(2, 3, 8, 8)  # every channel is active somewhere
    y = rounded(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), images).transpose(0, 1).flatten(1)
    levels = y / y.amax(1, keepdim=True) * 255
    torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-3)
    assert not torch.equal(levels[0], levels[1])
