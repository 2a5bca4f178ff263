"""All of torchvision's networks: classification, segmentation, video and optical flow whole, detectors in parts."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
import torchvision
from torch import Tensor, nn

from .entry import Entry, images

FAMILIES = {
    "classification": torchvision.models,
    "segmentation": torchvision.models.segmentation,
    "video": torchvision.models.video,
    "optical flow": torchvision.models.optical_flow,
    "detection": torchvision.models.detection,
}
# the smallest images that these accept; 64 elsewhere
SIDES = {"inception_v3": 75, "maxvit_t": 224, "mvit": 224, "s3d": 224}
# a detector loops over images and boxes: what computes stands in these submodules
PARTS = {
    "fcos": ("backbone", "head.classification_head.conv", "head.regression_head.conv"),
    "retinanet": ("backbone", "head.classification_head.conv", "head.regression_head.conv"),
    "ssd300": ("backbone",),
    "ssdlite": ("backbone", "head.*_head.module_list.*"),
    "fasterrcnn": ("backbone", "rpn.head.conv", "roi_heads.box_head"),
    "maskrcnn": ("backbone", "rpn.head.conv", "roi_heads.box_head", "roi_heads.mask_head"),
    "keypointrcnn": ("backbone", "rpn.head.conv", "roi_heads.box_head", "roi_heads.keypoint_head"),
}


def entries() -> Iterator[Entry]:
    """:return: one entry for each network that torchvision lists, quantised ones left out"""
    for family, module in FAMILIES.items():
        for name in torchvision.models.list_models(module=module):
            yield _entry(name, family)


def _entry(name: str, family: str) -> Entry:
    library = f"torchvision {family}"
    if family == "detection":
        parts = next(parts for start, parts in PARTS.items() if name.startswith(start))
        return Entry(library, name, partial(_detector, name), _image_list, parts)
    if family == "optical flow":
        return Entry(library, name, partial(_build, name), _image_pairs)
    side = next((s for start, s in SIDES.items() if name.startswith(start)), 64)
    options: dict[str, object] = {}
    if family == "segmentation":
        options = {"weights_backbone": None} | ({} if name.startswith("lraspp") else {"aux_loss": True})
    elif name.startswith("vit"):
        side = 4 * int(name.rsplit("_", 1)[1])  # 4 x 4 patches
        options = {"image_size": side}
    elif name in ("googlenet", "inception_v3"):
        options = {"init_weights": False}  # the alternative takes minutes
    shape = (3, 16, side, side) if family == "video" else (3, side, side)
    return Entry(library, name, partial(_build, name, **options), images(*shape))


def _build(name: str, **options: object) -> nn.Module:
    return torchvision.models.get_model(name, weights=None, **options)


def _detector(name: str) -> nn.Module:
    """With random weights no score means anything: few boxes, and every score counts."""
    options: dict[str, object] = {"weights": None, "weights_backbone": None}
    if not name.startswith("ssd"):
        options |= {"min_size": 64, "max_size": 64}
    if "rcnn" in name:
        options |= {"rpn_pre_nms_top_n_test": 100, "rpn_post_nms_top_n_test": 20}
        options |= {"box_score_thresh": 0.0, "box_detections_per_img": 10}
    else:
        options |= {"score_thresh": 0.0, "detections_per_img": 10}
    return torchvision.models.get_model(name, **options)


def _image_list(n: int) -> list[Tensor]:
    return [torch.rand(3, 64, 64) for _ in range(n)]


def _image_pairs(n: int) -> dict[str, Tensor]:
    return {name: torch.rand(n, 3, 128, 128) * 2 - 1 for name in ("image1", "image2")}
