"""What users register is not in a file: its reader has it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from nets import TOKENS
from saved import converted, round_trip, same
from torch import Tensor, nn
from torch.nn import functional as F

import sj_parallel_conversion as sjpc


class Doubling(nn.Module):
    """A leaf with a setting, a parameter and a layer."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor, self.sizes = factor, (1, 2)
        self.shift, self.fc = nn.Parameter(torch.ones(4)), nn.Sequential(nn.Linear(4, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x) * self.factor + self.shift


def bump(x: Tensor, width: float) -> Tensor:
    """An activation that is a function."""
    return torch.relu(width - x.abs())


class Registered(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer, self.leaf = nn.Linear(6, 4), nn.Linear(4, 3), Doubling(2.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.outer(F.relu(self.leaf(bump(self.inner(x), 2.0))))


@torch.no_grad()
def test_registered_leaves_and_functions_are_the_readers(tmp_path: Path) -> None:
    sjpc.register_leaf(Doubling)
    sjpc.register_activation(bump)
    try:
        snn = converted(Registered(), TOKENS)
        with pytest.warns(UserWarning, match=r"Doubling, .*bump"):
            other = round_trip(snn, tmp_path)
        assert same(snn.predict(TOKENS), other.predict(TOKENS)) and other.net.leaf.sizes == (1, 2)
    finally:
        sjpc.unregister_activation(bump)
        with pytest.raises(sjpc.FileError, match=r"function .*bump.*register_activation"):
            sjpc.load(tmp_path / "network.sjpc")
        sjpc.register_activation(bump)
        sjpc.unregister_leaf(Doubling)
    with pytest.raises(sjpc.FileError, match=r"network.sjpc: layer 'leaf': it is a .*Doubling.*register_leaf"):
        sjpc.load(tmp_path / "network.sjpc")
    sjpc.unregister_activation(bump)
