"""Saving and loading for tests: small networks, round trips, and files that somebody has changed."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from nets import net
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import sj_parallel_conversion as sjpc
from sj_parallel_conversion.files import container

PLAIN = {"time_steps": 3, "threshold": "max", "calibration": "none", "show_progress": False}


def converted(ann: nn.Module, x: object, **options: object) -> sjpc.SpikingNetwork:
    """A quick conversion."""
    return sjpc.ParallelConverter([x], **PLAIN | options).convert(ann)


@cache
def _small() -> tuple[sjpc.SpikingNetwork, Tensor]:
    ann, x = net("concatenated")
    return converted(ann, x), x


def small() -> tuple[sjpc.SpikingNetwork, Tensor]:
    """A converted network that may be changed, and an input for it."""
    snn, x = _small()
    return copy.deepcopy(snn), x.clone()


def round_trip(snn: nn.Module, folder: Path, **options: object) -> nn.Module:
    """``snn``, saved and loaded."""
    sjpc.save(snn, folder / "network.sjpc")
    return sjpc.load(folder / "network.sjpc", **options)


def same(one: object, other: object) -> bool:
    """Whether two outputs are equal to the bit, in their dtypes, and built alike."""
    pairs = list(zip(tree_leaves(one), tree_leaves(other), strict=True))
    tensors = [(x, y) for x, y in pairs if isinstance(x, Tensor)]
    equal = all(x.dtype == y.dtype and torch.equal(x, y) for x, y in tensors)
    return equal and type(one) is type(other) and len(tensors) > 0


def change(path: Path, edit: Callable[[dict], object]) -> None:
    """Change the structure in a file, as somebody would who knows the checksum."""
    with container.reading(path) as (structure, _):
        edit(structure)
    container.write(path, structure, load_file(path))


def module_of(structure: dict, path: str) -> dict:
    """What a file says of a module."""
    return next(record for record in structure["network"]["modules"] if record["path"] == path)
