"""What somebody needs to make the same network again: options, versions, and fingerprints of the weights."""

from __future__ import annotations

import hashlib
import platform
import sys
from dataclasses import fields
from importlib import metadata

import numpy as np
import torch
from torch import Tensor, nn

from ...ann2snn.config import ConversionConfig
from ...version import __version__
from .networks import Converted, first_part

_OF_THE_RUN = ("show_progress", "max_memory")  # options that change nothing about the network


def options_of(snn: Converted) -> dict[str, object]:
    """The options of the conversion as plain data."""
    config = first_part(snn).config
    options = config.as_dict() | {"keep": list(config.keep)}
    return {name: value for name, value in options.items() if name not in _OF_THE_RUN}


def call_of(options: dict[str, object], parts: list[str]) -> str:
    """
    :param options: as :func:`options_of` gives them
    :param parts: the submodules that were converted; none, if all of the model was
    :return: the call that converts with these options, as code
    """
    defaults = {f.name: f.default for f in fields(ConversionConfig)} | {"keep": []}
    always = ("mode", "time_steps", "calibration")
    named = [f"{name}={v!r}" for name, v in options.items() if name in always or v != defaults[name]]
    lines = ["snn = sjpc.ParallelConverter(", "    dataloader,", *(f"    {argument}," for argument in named)]
    return "\n".join([*lines, f").convert(ann{f', submodules={parts!r}' if parts else ''})"])


def versions() -> dict[str, str]:
    """What the network ran on."""
    return {
        "sj_parallel_conversion": __version__,
        "spikingjelly": metadata.version("spikingjelly"),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "platform": f"{sys.platform} {platform.machine()}",
    }


def fingerprint(module: nn.Module) -> str:
    """:return: SHA-256 of the names, types, shapes and values in a module's state dict, in hexadecimal digits"""
    digest = hashlib.sha256()
    for name, value in module.state_dict().items():
        if isinstance(value, Tensor):
            digest.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
