"""A model that cannot be captured as a whole, and how it is converted in parts."""

from __future__ import annotations

from collections import OrderedDict

import torch
from nets import IMAGES, lively
from torch import Tensor, nn

import sj_parallel_conversion as sjpc
from sj_parallel_conversion.ann2snn.network.calls import PartData, first_calls
from sj_parallel_conversion.ann2snn.network.submodules import find_submodules

PARTS = ["backbone", "head.tower"]


def refuse_huge(x: Tensor) -> None:
    """Control flow that depends on values, which nothing can capture."""
    if x.sum() > 1e9:
        raise ValueError("huge images")


class Branches(nn.Module):
    """Two outputs in a dict, as a detector's backbone returns them."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.b = nn.Sequential(nn.Conv2d(4, 4, 3, stride=2), nn.ReLU())

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.a(x)
        return OrderedDict([("fine", x), ("coarse", self.b(x))])


class Fuse(nn.Module):
    """Takes two tensors, and has an activation without a layer."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.relu(x + y)


class Detector(nn.Module):
    """A condition on values, and parts that compute."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Branches()
        self.neck = nn.ModuleDict({level: nn.Conv2d(4, 6, 1) for level in ("fine", "coarse")})
        self.head = nn.Module()
        self.head.tower = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.ReLU())
        self.head.scores, self.head.boxes = nn.Conv2d(6, 2, 1), nn.Conv2d(6, 4, 1)
        self.head.unused = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
        self.fuse = Fuse()

    def forward(self, images: list[Tensor] | Tensor, targets: list | None = None) -> list[dict[str, Tensor]]:
        x = torch.stack(list(images))
        refuse_huge(x)
        features = [self.head.tower(self.neck[level](v)) for level, v in self.backbone(x).items()]
        results = []
        for one in zip(*features, strict=True):
            scores = torch.cat([self.head.scores(f).flatten(1) for f in one], 1)
            boxes = torch.cat([self.head.boxes(f).flatten(1) for f in one], 1)
            kept = scores.amax(0).topk(3).indices
            results.append({"scores": self.fuse(scores[:, kept], scores[:, kept]), "boxes": boxes[:, kept]})
        return results


def detector() -> Detector:
    """A fresh one, always the same."""
    torch.manual_seed(0)
    model = Detector()
    lively(model.backbone, IMAGES)
    return model


def convert(
    model: nn.Module, submodules: list[str], loader: object = (IMAGES,), **options: object
) -> sjpc.PartlySpikingNetwork:
    """A quick conversion in parts."""
    options = {"time_steps": 4, "show_progress": False} | options
    return sjpc.ParallelConverter(loader, **options).convert(model, submodules=submodules)


def found(model: nn.Module, patterns: list[str], *batches: object) -> list[str]:
    """The submodules that ``patterns`` stand for."""
    data = PartData(model.eval(), list(batches) or [IMAGES], None)
    return find_submodules(model, patterns, first_calls(model, data.first()))


def same(one: list[dict[str, Tensor]], other: list[dict[str, Tensor]]) -> bool:
    """Whether two outputs of a detector are equal to the bit."""
    return all(torch.equal(x[key], y[key]) for x, y in zip(one, other, strict=True) for key in x)
