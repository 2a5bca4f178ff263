"""
Sizes whose expressions grow long: the one thing that makes a capture with free sizes slow.

Where a network pads its maps to whole windows, cuts them, and merges what it has cut, stage by stage (Swin), the size
of a map is an expression that holds the former one several times. It grows by a factor at each stage, and torch
simplifies it at each reshape, for minutes. A capture whose sizes are longer than this is given up, and the sizes stay
fixed.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...torch_compat import expression

LONGEST = 180  # characters; YOLO has 155, and is captured in seconds. MobileViT passes 200, and would take minutes


class LongSizesError(RuntimeError):
    """A capture with free sizes would take minutes."""


def check_sizes(value: object) -> None:
    """:raises LongSizesError: if ``value`` is a tensor with a size whose expression is too long"""
    if isinstance(value, Tensor):
        for size in value.shape:
            if isinstance(size, torch.SymInt) and _is_long(expression(size)):
                raise LongSizesError(f"the size of a map is {str(expression(size))[:80]} ...")


def _is_long(size: object) -> bool:
    # a name or a number, the most common sizes, need not be written out
    return not (getattr(size, "is_Symbol", False) or getattr(size, "is_Integer", False)) and len(str(size)) > LONGEST
