"""What the tests of the command line run on: small files of models, weights and images, and the command in-process."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

from sj_parallel_conversion.cli import main

MODELS = '''
import torch
from torch import nn
from torch.utils.data import Dataset, TensorDataset

def tiny(classes=3, channels=3):
    generator = torch.Generator().manual_seed(0)
    pool = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    net = nn.Sequential(nn.Conv2d(channels, 4, 3), nn.ReLU(), *pool, nn.Linear(4, classes))
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.5, generator=generator)
    return net

class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = tiny(4), nn.Linear(4, 3)
    def forward(self, x):
        y = self.body(x)
        return self.head(y) if y.sum() > 0 else self.head(-y)

instance = tiny()
number = 3
def a_number(): return 3
def broken(): raise RuntimeError("the factory\\nis broken")

x = torch.rand(12, 3, 8, 8, generator=torch.Generator().manual_seed(1))
y = torch.arange(12) % 3
def batches(): return [(x[:6], y[:6]), (x[6:], y[6:])]
def dataset(): return TensorDataset(x, y)
listed = batches()
'''


class Done(NamedTuple):
    """What a command did: its exit code, and what it printed."""

    code: int
    out: str
    err: str


class Commands:
    """Runs ``sjpc`` in this process."""

    def __init__(self, capsys: pytest.CaptureFixture) -> None:
        self._capsys = capsys

    def __call__(self, *words: object) -> Done:
        self._capsys.readouterr()
        code = main([str(word) for word in words])
        return Done(code, *self._capsys.readouterr())


def write_files(folder: Path) -> None:
    """
    :param folder: gets ``nets_here.py`` (:data:`MODELS`), ``train.npz`` and ``grey.npz`` (40 images of 8 x 8), and
        ``tiny.pt``, weights of ``tiny()`` that are not those that it has itself
    """
    (folder / "nets_here.py").write_text(MODELS)
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (40, 8, 8, 3), dtype=np.uint8), np.arange(40) % 3
    np.savez(folder / "train.npz", images=images, labels=labels)
    np.savez(folder / "grey.npz", images=images[..., 0], labels=labels)
    torch.save(state_dict(), folder / "tiny.pt")


def state_dict() -> dict[str, torch.Tensor]:
    """The tensors of ``tiny.pt``."""
    generator = torch.Generator().manual_seed(7)
    shapes = {"0.weight": (4, 3, 3, 3), "0.bias": (4,), "4.weight": (3, 4), "4.bias": (3,)}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
