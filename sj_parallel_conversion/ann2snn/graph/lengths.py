"""``len(x)`` of a tensor stays a free size in a capture. Python asks for a number, which would fix the batch size."""

from __future__ import annotations

import builtins
import sys
from collections.abc import Iterator, Sized
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn


@contextmanager
def free_lengths(model: nn.Module) -> Iterator[None]:
    """
    Within it, ``len`` in the files of the model's classes gives the first size of a tensor as ``x.shape[0]`` does.

    :param model: any module
    """
    changed = [space for space in _namespaces(model) if "len" not in space]
    try:
        for space in changed:
            space["len"] = _length
        yield
    finally:
        for space in changed:
            space.pop("len", None)


def _length(x: object) -> int | torch.SymInt:
    # the model of another thread, which has values, gets its number
    size = x.shape[0] if isinstance(x, Tensor) and x.dim() else None
    return size if isinstance(size, torch.SymInt) else builtins.len(cast(Sized, x))


def _namespaces(model: nn.Module) -> list[dict[str, object]]:
    """The files of the classes of a model, and of functions among its attributes; not those of torch."""
    found: dict[int, dict[str, object]] = {}
    for module in model.modules():
        names = {kind.__module__ for kind in type(module).__mro__}
        spaces = [vars(sys.modules[name]) for name in names if name in sys.modules]
        spaces += [value.__globals__ for value in vars(module).values() if hasattr(value, "__globals__")]
        found |= {id(space): space for space in spaces}
    own = ("torch.", "builtins")
    return [space for space in found.values() if not str(space.get("__name__")).startswith(own)]
