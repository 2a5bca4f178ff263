"""A demonstration in half a minute: a small CNN on handwritten digits, trained, converted and compared."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import sj_parallel_conversion as sjpc

from ..analysis.table import aligned
from .imports import library

_TRAINING_IMAGES = 1200


def demo(time_steps: Sequence[int] = (2, 4, 8, 16), epochs: int = 10, output: str | None = None) -> None:
    """
    Train a small CNN on the handwritten digits of scikit-learn, convert it, and compare. Nothing is downloaded.

    :param time_steps: numbers of time-steps to try
    :param epochs: of the training
    :param output: a file for the last spiking network; it is not saved by default
    """
    digits = library("sklearn.datasets", "the demonstration").load_digits()
    torch.manual_seed(0)
    order = torch.randperm(len(digits.images))  # neighbours were written by the same people
    data = TensorDataset(torch.from_numpy(digits.images).float()[:, None] / 16, torch.from_numpy(digits.target))
    train, test = (TensorDataset(*data[part]) for part in (order[:_TRAINING_IMAGES], order[_TRAINING_IMAGES:]))
    ann = _trained(train, epochs)
    rows = [("network", "T", "accuracy", "same class as the ANN")]
    loader = DataLoader(test, 100)
    rows.append(("ANN", "", f"{sjpc.evaluate(ann, loader, show_progress=False).accuracy:.2%}", ""))
    for T in time_steps:
        converter = sjpc.ParallelConverter(DataLoader(train, 100), time_steps=T, show_progress=False)
        snn = converter.convert(ann)
        found = sjpc.evaluate(snn, loader, ann=ann, show_progress=False)
        rows.append(("SNN", str(T), f"{found.accuracy:.2%}", f"{found.agreement:.2%}"))
    print(*aligned(rows, left=1), sep="\n")
    if output is not None:
        sjpc.save(snn, output)
        print(f"saved: {output}")


def _trained(data: TensorDataset, epochs: int) -> nn.Module:
    ann = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(), nn.Flatten(), nn.Linear(512, 10),
    )  # fmt: skip
    optimizer = torch.optim.AdamW(ann.parameters())
    for _ in range(epochs):
        for images, labels in DataLoader(data, 64, shuffle=True):
            optimizer.zero_grad()
            F.cross_entropy(ann(images), labels).backward()
            optimizer.step()
    return ann.eval()
