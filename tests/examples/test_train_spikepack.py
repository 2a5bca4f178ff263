"""The example that trains a spiking network from scratch."""

from __future__ import annotations

import pytest
from train_spikepack import run


@pytest.mark.parametrize("mode", ["spikepack", "css"])
def test_learns(mode: str) -> None:
    result = run(mode, 2, "packed", epochs=4)
    assert result["accuracy"] > 90 and result["spikes agree"]
