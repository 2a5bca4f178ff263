"""Models of torchvision that are converted in parts."""

from __future__ import annotations

import pytest
import torch
from in_parts import convert
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN, ssdlite320_mobilenet_v3_large
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.optical_flow import raft_small

import sj_parallel_conversion as sjpc


def tiny_faster_rcnn() -> FasterRCNN:
    """Torchvision's detector with a backbone of two layers."""
    torch.manual_seed(0)
    backbone = nn.Sequential(
        nn.Conv2d(3, 8, 3, 4, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU()
    )
    backbone.out_channels = 8
    return FasterRCNN(
        backbone, num_classes=3, rpn_anchor_generator=AnchorGenerator(((16, 32),), ((1.0,),)), min_size=64, max_size=64,
        rpn_post_nms_top_n_test=8, box_score_thresh=0.0, box_detections_per_img=5,
    ).eval()  # fmt: skip


@pytest.mark.slow
@torch.no_grad()
def test_faster_rcnn_end_to_end() -> None:
    model, images = tiny_faster_rcnn(), [torch.rand(3, 48, 64), torch.rand(3, 64, 40)]
    parts = sjpc.convertible_submodules(model, [(images, None)])
    assert parts == ["backbone", "rpn.head", "roi_heads.box_head"]
    snn = convert(model, ["backbone", "rpn.*", "roi_heads.box_*"], [(images, None)], time_steps=256)
    assert list(snn.parts) == parts
    for expected, found in zip(model(images), snn(images), strict=True):
        assert found.keys() == expected.keys()
        torch.testing.assert_close(found["scores"].sum(), expected["scores"].sum(), rtol=0.05, atol=0)
    assert sjpc.inspect(snn, show=False).accumulates > 0


class Flow(nn.Module):
    """RAFT with two of its twelve updates."""

    def __init__(self) -> None:
        super().__init__()
        self.raft = raft_small(weights=None)

    def forward(self, image1: Tensor, image2: Tensor) -> list[Tensor]:
        return self.raft(image1, image2, num_flow_updates=2)


@pytest.mark.slow
@torch.no_grad()
def test_raft_end_to_end() -> None:
    torch.manual_seed(0)
    model, images = Flow().eval(), tuple(torch.rand(2, 1, 3, 128, 128) * 2 - 1)
    snn = convert(model, ["raft.*"], [images], mode="css", time_steps=8, threshold="max", calibration="none")
    assert list(snn.parts) == [f"raft.{name}" for name in ("feature_encoder", "context_encoder", "update_block")]
    for expected, found in zip(model(*images), snn(*images), strict=True):
        assert (found - expected).square().sum() < 0.001 * expected.square().sum()


@pytest.mark.slow
@torch.no_grad()
def test_ssdlite_end_to_end() -> None:
    torch.manual_seed(0)
    model = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=3).eval()
    images = [torch.rand(3, 64, 64)]
    snn = convert(model, ["backbone", "head.*"], [images], time_steps=32, calibration="none")
    assert list(snn.parts) == ["backbone", "head.classification_head", "head.regression_head"]
    assert snn(images)[0].keys() == model(images)[0].keys()
