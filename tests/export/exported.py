"""What the tests of exports share: small networks, and ONNX Runtime."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import sj_parallel_conversion as sjpc

needs_torch_2_8 = pytest.mark.skipif(not hasattr(torch.onnx, "ops"), reason="torch.onnx.ops came with torch 2.8")
PLAIN = {"time_steps": 4, "mode": "spikepack", "threshold": "max", "calibration": "none", "show_progress": False}
IMAGES = torch.randn(8, 3, 12, 12, generator=torch.Generator().manual_seed(1))


def converted(ann: nn.Module, x: object, **options: object) -> sjpc.SpikingNetwork:
    """A quick conversion, in packed execution."""
    snn = sjpc.ParallelConverter([x], **PLAIN | options).convert(ann)
    snn.execution = "packed"
    return snn.requires_grad_(False)


class Residual(nn.Module):
    """Convolutions with every kind of neighbour: pools, a shortcut of levels, groups, a concatenation, a classifier."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.stem, self.pool = nn.Conv2d(3, width, 3, padding=1), nn.MaxPool2d(3, 2, 1)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, groups=2)
        self.wide = nn.Conv2d(2 * width, width, (3, 1), stride=2, dilation=(1, 1))
        self.hidden, self.head = nn.Linear(width * 2 * 3, 16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.stem(x).relu())
        y = self.conv1(x).relu()
        y = (self.conv2(y) + x).relu()
        y = self.wide(torch.cat([x, y], 1)).relu()
        return self.head(self.hidden(y.flatten(1)).relu())


def residual() -> nn.Module:
    """The network with the same weights each time."""
    torch.manual_seed(0)
    return Residual().eval()


@cache
def _small() -> sjpc.SpikingNetwork:
    return converted(residual(), IMAGES)


def small() -> sjpc.SpikingNetwork:
    """:func:`residual`, converted, which may be changed."""
    return copy.deepcopy(_small())


def onnx_run(path: Path, *inputs: Tensor) -> list[np.ndarray]:
    """The outputs of a file in ONNX Runtime."""
    return session(path).run(None, dict(zip(names(path)[0], (x.numpy() for x in inputs), strict=True)))


def names(path: Path) -> tuple[list[str], list[str]]:
    """The names of the inputs and of the outputs."""
    runtime = session(path)
    return [i.name for i in runtime.get_inputs()], [o.name for o in runtime.get_outputs()]


def session(path: Path, optimised: Path | None = None) -> object:
    """A session on one thread; ``optimised`` is where it writes the graph that it runs."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    if optimised is not None:
        options.optimized_model_filepath = str(optimised)
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
