"""The benchmark's images: moved, and otherwise as they were."""

from __future__ import annotations

import torch
from fine_tuning import Augmented, cost
from helpers.models import digits_cnn


def test_each_image_is_seen_once_and_moved() -> None:
    x = torch.zeros(64, 3, 12, 12)
    x[:, 0, 4:8, 4:8] = torch.arange(1.0, 65).view(-1, 1, 1)  # a square that no shift moves out of the image
    x[:, 1, 5, 4] = 1  # on its left side
    loader = Augmented(x, 16)
    torch.manual_seed(0)
    batches = list(loader)
    assert len(batches) == len(loader) == 4 and all(batch.shape == (16, 3, 12, 12) for batch in batches)
    seen = torch.cat(batches)
    assert sorted(seen[:, 0].amax((1, 2)).tolist()) == list(range(1, 65))
    assert torch.equal((seen[:, 0] > 0).sum((1, 2)), torch.full((64,), 16))
    left = (seen[:, 0] > 0).any(1).int().argmax(1)
    mirrored = seen[:, 1].amax(1).argmax(1) != left
    assert 16 < int(mirrored.sum()) < 48


def test_the_cost_of_an_epoch() -> None:
    *_, first, second = cost(digits_cnn().eval(), torch.randn(40, 1, 8, 8), [2, 8], "parallel", seconds=0).splitlines()
    assert first == "| T=2 | 1.000 | 1.000 |" or first == "| T=2 | 1.000 |  |"
    assert second.startswith("| T=8 | ")
