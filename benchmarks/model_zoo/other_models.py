"""Detectors of ultralytics, U-Nets and others of segmentation_models_pytorch and MONAI, two networks of timm."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from torch import nn

from .entry import Entry, images


def ultralytics_entries() -> Iterator[Entry]:
    """:return: the smallest network of three generations of YOLO, from their configuration files"""
    for name in ("yolov5n", "yolov8n", "yolo11n"):
        yield Entry("ultralytics", name, partial(_yolo, name), images(3, 64, 64))


def smp_entries() -> Iterator[Entry]:
    """:return: six architectures of segmentation_models_pytorch, each with an encoder that it supports"""
    encoders = {
        "Unet": "resnet18", "FPN": "mobilenet_v2", "DeepLabV3Plus": "resnet18", "UnetPlusPlus": "resnet18",
        "MAnet": "mobilenet_v2", "PSPNet": "resnet18",
    }  # fmt: skip
    for name, encoder in encoders.items():
        build = partial(_smp, name, encoder)
        yield Entry("segmentation_models_pytorch", f"{name}, {encoder}", build, images(3, 64, 64))


def monai_entries() -> Iterator[Entry]:
    """:return: two U-Nets of MONAI"""
    yield Entry("MONAI", "UNet", _monai_unet, images(1, 64, 64))
    yield Entry("MONAI", "BasicUNet", _monai_basic_unet, images(1, 64, 64))


def timm_entries() -> Iterator[Entry]:
    """:return: two networks of timm"""
    for name in ("mobilevit_s", "repvgg_a0"):
        yield Entry("timm", name, partial(_timm, name), images(3, 64, 64))


def _yolo(name: str) -> nn.Module:
    from ultralytics.nn.tasks import DetectionModel

    return DetectionModel(f"{name}.yaml", verbose=False)


def _smp(name: str, encoder: str) -> nn.Module:
    import segmentation_models_pytorch as smp

    return getattr(smp, name)(encoder, encoder_weights=None)


def _monai_unet() -> nn.Module:
    from monai.networks.nets import UNet

    return UNet(2, in_channels=1, out_channels=2, channels=(8, 16, 32), strides=(2, 2), num_res_units=2)


def _monai_basic_unet() -> nn.Module:
    from monai.networks.nets import BasicUNet

    return BasicUNet(2, in_channels=1, out_channels=2, features=(8, 8, 16, 32, 64, 8))


def _timm(name: str) -> nn.Module:
    import timm

    return timm.create_model(name)
