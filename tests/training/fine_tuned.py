"""A small converted network, how it is fine-tuned, and how far it is from its ANN."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import sj_parallel_conversion as sjpc


def network() -> nn.Module:
    torch.manual_seed(1)
    body = [nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 6, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(96, 5)).eval()


def images(n: int = 128, seed: int = 2) -> Tensor:
    return torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


ANN, X, UNSEEN = network(), images(256), images(256, seed=3)
BATCHES = list(X.split(32))


def convert(**options: object) -> sjpc.SpikingNetwork:
    options = {"time_steps": 1, "calibration": "none", "show_progress": False} | options
    return sjpc.ParallelConverter(BATCHES, **options).convert(ANN)


def tune(snn: nn.Module, batches: object = BATCHES, ann: nn.Module | None = ANN, **options: object) -> sjpc.FineTuning:
    return sjpc.fine_tune(snn, ann, batches, **{"epochs": 3, "show_progress": False} | options)


def error(snn: sjpc.SpikingNetwork, x: Tensor = UNSEEN) -> float:
    with torch.no_grad():
        y = ANN(x)
        return float((snn.predict(x) - y).square().mean() / y.var())


def same(first: nn.Module, second: nn.Module) -> bool:
    pairs = zip(first.parameters(), second.parameters(), strict=True)
    return all(torch.equal(p, q) for p, q in pairs)
