"""
``len(x)`` of a tensor stays a free size in a capture, and ``int(x.shape[0])`` can.

Python asks for a number, which would fix the batch size.
"""

from __future__ import annotations

import builtins
import sys
from collections.abc import Iterator, Sized
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn


@contextmanager
def free_lengths(model: nn.Module, integers: bool = False) -> Iterator[None]:
    """
    Within it, ``len`` in the files of the model's classes gives the first size of a tensor as ``x.shape[0]`` does.

    :param model: any module
    :param integers: whether ``int`` gives a free size back as well. It is not quite ``int`` then: torch does not take
        it for a dtype, and ``type(1) is int`` is false
    """
    functions = {"len": _length} | ({"int": _FreeInteger} if integers else {})
    changed = [(space, name) for space in _namespaces(model) for name in functions if name not in space]
    try:
        for space, name in changed:
            space[name] = functions[name]
        yield
    finally:
        for space, name in changed:
            space.pop(name, None)


class _IntegerType(type):
    """Calls and checks go to ``int``, so that free sizes alone are treated in another way."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        is_size = len(args) == 1 and isinstance(args[0], torch.SymInt)
        return args[0] if is_size else builtins.int(*args, **kwargs)

    def __instancecheck__(cls, value: object) -> bool:
        return isinstance(value, (builtins.int, torch.SymInt))

    def __subclasscheck__(cls, kind: type) -> bool:
        return issubclass(kind, builtins.int)


class _FreeInteger(int, metaclass=_IntegerType):
    """Stands for ``int``."""


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
