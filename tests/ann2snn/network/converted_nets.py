"""A quick conversion, and a comparison of what its executions give."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import sj_parallel_conversion as sjpc


def convert(ann: nn.Module, x: Tensor, **options: object) -> sjpc.SpikingNetwork:
    options = {"time_steps": 4, "threshold": "max", "calibration": "da_qcfs", "show_progress": False} | options
    return sjpc.ParallelConverter([x], **options).convert(ann)


def assert_rounding(actual: object, expected: object) -> None:
    """Equal up to the order of float additions."""
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
