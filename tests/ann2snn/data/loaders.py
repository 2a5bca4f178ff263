"""Dataloaders of many kinds, and a network for their batches."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.utils.data import IterableDataset

X = torch.arange(12.0).view(4, 3)
OPTIONS = {"time_steps": 4, "show_progress": False}
QUICK = OPTIONS | {"threshold": "max", "calibration": "none"}  # reads the data once


def mlp() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)).eval()


class Loader:
    """Counts how often it is started, and how many batches it gives, which are others each time."""

    def __init__(self, batches: int = 5, fails: Callable[[int, int], None] = lambda start, batch: None) -> None:
        self.batches, self.fails, self.starts, self.given = batches, fails, 0, 0

    def __iter__(self) -> Iterator[Tensor]:
        self.starts += 1
        for i in range(self.batches):
            self.fails(self.starts, i)
            self.given += 1
            yield torch.randn(4, 3)


class Endless(IterableDataset):
    def __iter__(self) -> Iterator[Tensor]:
        return itertools.repeat(X)


class OnlyOnce:
    """An iterable that is no iterator, as ``map`` in an object, and gives nothing when it is read again."""

    def __init__(self) -> None:
        self.batches = iter([X, X + 1, X + 2])

    def __iter__(self) -> Iterator[Tensor]:
        return self.batches


class OldStyle:
    """Iterable by index only, as PyTorch datasets are."""

    def __getitem__(self, i: int) -> Tensor:
        if i >= 3:
            raise IndexError
        return X + i
