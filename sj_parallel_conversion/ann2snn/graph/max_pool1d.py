"""Max pooling along one axis, as an operator that leaves the length free. torch's own asks for a number."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

SPELLINGS = (F.max_pool1d, torch.max_pool1d)
_SCHEMA = "max_pool1d(Tensor self, int kernel_size, int stride, int padding, int dilation, bool ceil_mode) -> Tensor"
_NAMES = ("input", "kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")


def define(library: torch.library.Library) -> Callable[..., Tensor]:
    """
    :param library: where the operator goes
    :return: the operator. It is there for captures alone: in the graph that comes out it is an ``nn.MaxPool1d``
    """
    library.define(_SCHEMA)
    library.impl("max_pool1d", torch.max_pool1d, "CompositeExplicitAutograd")  # of constants of the model
    torch.library.register_fake(f"{library.ns}::max_pool1d", _without_values, lib=library)
    return getattr(torch.ops, library.ns).max_pool1d.default


def _without_values(x: Tensor, window: int, stride: int, padding: int, dilation: int, ceil_mode: bool) -> Tensor:
    length = (x.shape[-1] + 2 * padding - dilation * (window - 1) - 1) // stride + 1
    return x.new_empty((*x.shape[:-1], length))


def settings(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...] | None:
    """
    :param args: of a call of one of :data:`SPELLINGS`
    :param kwargs: of that call
    :return: what the operator takes; ``None`` if torch's own has to do it
    """
    given = dict(zip(_NAMES, args, strict=False)) | kwargs
    window = _number(given.get("kernel_size"))
    others = {"stride": window, "padding": 0, "dilation": 1}
    values = [window, *(_number(given.get(name) or other) for name, other in others.items())]
    if given.get("return_indices") or given.get("ceil_mode") or None in values:
        return None
    return (given["input"], *values, False)


def _number(value: object) -> int | None:
    if isinstance(value, (tuple, list)) and len(value) == 1:
        (value,) = value
    return value if type(value) is int else None
