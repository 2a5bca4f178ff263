"""The example that trains a spiking network from scratch."""

from __future__ import annotations

import pytest
import torch
from helpers.digits import load_data
from helpers.saccades import LIFNetwork, saccade
from train_spikepack import run, run_saccades


@pytest.mark.parametrize("mode", ["spikepack", "css"])
def test_learns(mode: str) -> None:
    result = run(mode, 2, "packed", epochs=4)
    assert result["accuracy"] > 90 and result["spikes agree"]


@pytest.mark.parametrize("T", [4, 8, 16])
def test_opposite_movements_have_the_same_frames(T: int) -> None:
    images = load_data()[1][:20]
    for axis in (-1, -2):
        one, other = (saccade(images, T, axis, sign) for sign in (1, -1))
        assert torch.equal(one.sum(1), other.sum(1)) and not torch.equal(one, other)
        assert one.shape == (20, T, 2, 12, 12) and (one.flatten(2).sum(2) > 0).all()


def test_weighted_frames_tell_the_direction_and_the_mean_frame_does_not() -> None:
    weighted, mean = (run_saccades("spikepack", 4, form, epochs=1) for form in ("weighted frames", "mean frame"))
    assert weighted["direction"] > 90 and mean["direction"] == pytest.approx(50, abs=1)
    assert LIFNetwork()(torch.ones(2, 4, 2, 12, 12, dtype=torch.uint8)).shape == (2, 40)
