"""What a capture finds out about sizes, which has to be the same with every torch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import sj_parallel_conversion as sjpc
from sj_parallel_conversion.ann2snn.data.batches import CalibrationData
from sj_parallel_conversion.ann2snn.graph import graph_of
from sj_parallel_conversion.ann2snn.graph.signature import Signature

CPU = torch.device("cpu")


def signature_of(ann: nn.Module, x: Tensor) -> Signature:
    """What the captured network takes."""
    return graph_of(ann, CalibrationData([x], ann, CPU, None, False), CPU)[1]


def pooling(head: nn.Module) -> nn.Sequential:
    """A convolution and a pooling before ``head``."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.MaxPool2d(2), nn.Flatten(2), head)


def test_pooling_takes_sizes_that_are_no_multiple_of_its_stride() -> None:
    signature = signature_of(pooling(nn.AdaptiveAvgPool1d(1)), torch.randn(3, 2, 8, 8))
    for height, width in [(8, 8), (9, 8), (8, 11), (13, 7)]:
        signature.batch((torch.randn(2, 2, height, width),), {})


def test_sizes_that_the_weights_need_are_checked() -> None:
    signature = signature_of(pooling(nn.Linear(16, 4)), torch.randn(3, 2, 8, 8))
    signature.batch((torch.randn(2, 2, 9, 8),), {})  # whose last row is not pooled
    for height, width in [(10, 8), (8, 12), (6, 6)]:
        with pytest.raises(sjpc.DataError, match=r"\.shape\[[23]\] is "):
            signature.batch((torch.randn(2, 2, height, width),), {})


def test_maps_that_vanish_are_refused_with_their_sizes() -> None:
    signature = signature_of(pooling(nn.Linear(16, 4)), torch.randn(3, 2, 8, 8))
    with pytest.raises(sjpc.DataError, match=r"\.shape\[3\] is 1"):
        signature.batch((torch.randn(2, 2, 8, 1),), {})


def test_the_width_of_an_index_is_no_condition() -> None:
    signature = signature_of(pooling(nn.AdaptiveAvgPool1d(1)), torch.randn(3, 2, 8, 8))
    signature.batch((torch.empty(2, 2, 65536, 65536, device="meta"),), {})
