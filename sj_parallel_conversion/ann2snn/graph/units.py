"""
How units pass through a graph: a tensor of levels and the value of one level, side by side.

The *unit* of a tensor is another of the same shape, and the value that is meant is their product. An operation passes
units on if ``op(level * unit) == op(level) * op'(unit)`` for a known ``op'``. A unit of 0 stands where the level is 0
whatever the unit, as in padding.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx

from .operations import module_of, operation, operator_of

_REDUCTIONS = ("mean", "sum")
# Their result is a tuple.
SPLITTING = ("chunk", "split", "split_with_sizes", "tensor_split", "unbind")


def shrink(unit: Tensor) -> Tensor:
    """``unit``, with size 1 along each axis where it is the same (or 0, where it does not matter)."""
    for dim in range(unit.dim()):
        top = unit.amax(dim, keepdim=True)
        if ((unit == top) | (unit == 0)).all():
            unit = top
    return unit


def along(unit: Tensor, dim: int) -> Tensor | None:
    """``unit`` as a vector along the axis ``dim``, or ``None`` if it also differs along another."""
    size, unit = unit.shape[dim], shrink(unit)
    if unit.numel() != unit.shape[dim]:
        return None
    return unit.flatten().expand(size)


def may_pass(model: fx.GraphModule, node: fx.Node) -> bool:
    """Whether ``node`` is an operation that passes units on (for some units and shapes)."""
    name = operator_of(node)
    if name in SPLITTING:
        return all(user.target is operator.getitem for user in node.users)
    if name in _REDUCTIONS:
        return "dtype" not in node.kwargs
    return operation(model, node).passes_units


def moves_values(model: fx.GraphModule, node: fx.Node) -> bool:
    """Whether ``node`` passes units on because it moves values, or adds zeros to them, and changes none."""
    return may_pass(model, node) and operation(model, node).moves


def keeps_integers(model: fx.GraphModule, node: fx.Node) -> bool:
    """Whether ``node`` passes units on and makes integers of integers: it moves values, or picks the largest."""
    row = operation(model, node)
    return may_pass(model, node) and (row.moves or row.is_max)


def reads_values(model: fx.GraphModule, node: fx.Node) -> bool:
    """Whether ``node`` needs the values of its inputs; for a size or a dtype any units do."""
    return not operation(model, node).shape_only


def passed(model: fx.GraphModule, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """
    :param model: a graph with recorded shapes
    :param node: an operation for which :func:`may_pass` is true
    :param args: what it is called with, each tensor being a unit
    :param kwargs: the same, by name
    :return: the unit of its result, or ``None`` if there is none
    """
    x = args[0][0] if isinstance(args[0], (list, tuple)) else args[0]
    rank = _spatial_axes(model, node)
    if rank is not None:
        vector = along(x, 1) if x.dim() == rank + 2 else None
        return None if vector is None else _fill(vector, node.meta["shape"])
    if operator_of(node) in _REDUCTIONS:
        dims = args[1] if len(args) > 1 and args[1] else list(range(x.dim()))
        top, low = (reduce(x, dims, *args[2:], **kwargs) for reduce in (torch.amax, torch.amin))
        return top if torch.equal(top, low) else None
    module = module_of(model, node)
    result = (node.target if module is None else module)(*args, **kwargs)
    parts = result if isinstance(result, (tuple, list)) else [result]
    # Units that differ within a batch would serve batches of one size only.
    return result if all(shrink(part).shape[:1] in ((), (1,)) for part in parts) else None


def _spatial_axes(model: fx.GraphModule, node: fx.Node) -> int | None:
    """For operations that stay within a channel: the number of axes after the channel axis."""
    axes = operation(model, node).spatial_axes
    return len(node.meta["shape"]) - 2 if axes < 0 else axes or None


def _fill(vector: Tensor, shape: tuple[int, ...]) -> Tensor | None:
    return vector.view(-1, *[1] * (len(shape) - 2)).expand(shape) if shape[1] == len(vector) else None
