"""
How units pass through a graph: a tensor of levels and the value of one level, side by side.

The *unit* of a tensor is another of the same shape, and the value that is meant is their product. An operation passes
units on if ``op(level * unit) == op(level) * op'(unit)`` for a known ``op'``. A unit of 0 stands where the level is 0
whatever the unit, as in padding.
"""

from __future__ import annotations

import operator

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.pooling import _AdaptiveAvgPoolNd, _AdaptiveMaxPoolNd, _AvgPoolNd, _MaxPoolNd

from .maxpool import is_max_pool

# They move values and change none: units move alike.
_MOVING_MODULES = (
    _DropoutNd, nn.Identity, nn.Flatten, nn.Unflatten, nn.PixelShuffle, nn.PixelUnshuffle, nn.ChannelShuffle,
    nn.modules.padding._ConstantPadNd, nn.modules.padding._ReflectionPadNd, nn.modules.padding._ReplicationPadNd,
)  # fmt: skip
_MOVING_FUNCTIONS = {
    operator.getitem, torch.cat, torch.concat, torch.flatten, torch.reshape, torch.permute, torch.transpose,
    torch.squeeze, torch.unsqueeze, torch.chunk, torch.split, torch.roll, torch.flip, F.pad, F.pixel_shuffle,
    F.pixel_unshuffle,
}  # fmt: skip
_MOVING_METHODS = {
    "flatten", "reshape", "view", "permute", "transpose", "squeeze", "unsqueeze", "chunk", "split", "contiguous",
    "clone", "roll", "flip", "narrow",
}  # fmt: skip
# They mix the values of one channel, and only those: the unit of a channel passes. All are positively homogeneous.
_POOLING_MODULES = (_MaxPoolNd, _AvgPoolNd, _AdaptiveMaxPoolNd, _AdaptiveAvgPoolNd)
_POOLING_FUNCTIONS = {
    F.max_pool1d: 1, F.max_pool2d: 2, F.max_pool3d: 3, F.avg_pool1d: 1, F.avg_pool2d: 2, F.avg_pool3d: 3,
    F.adaptive_max_pool1d: 1, F.adaptive_max_pool2d: 2, F.adaptive_max_pool3d: 3, F.adaptive_avg_pool1d: 1,
    F.adaptive_avg_pool2d: 2, F.adaptive_avg_pool3d: 3,
}  # fmt: skip
# They ask for the form of a tensor and not for its values.
_QUESTIONS = {getattr, "size", "dim", "numel"}
_REDUCTIONS = {torch.mean, torch.sum, "mean", "sum"}
# Their result is a tuple.
SPLITTING = (torch.chunk, torch.split, "chunk", "split")


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
    if node.op == "call_module":
        module = model.get_submodule(node.target)
        if isinstance(module, nn.modules.padding._ConstantPadNd):
            return module.value == 0
        if isinstance(module, (_MaxPoolNd, _AdaptiveMaxPoolNd)):
            return not module.return_indices
        return isinstance(module, (*_MOVING_MODULES, *_POOLING_MODULES, nn.Upsample))
    if node.target is F.pad:
        return not any(node.args[3:]) and not node.kwargs.get("value")
    if node.target in SPLITTING:
        return all(user.target is operator.getitem for user in node.users)
    if node.target in _REDUCTIONS:
        return "dtype" not in node.kwargs
    known = _MOVING_METHODS if node.op == "call_method" else {*_MOVING_FUNCTIONS, *_POOLING_FUNCTIONS, F.interpolate}
    return node.op in ("call_function", "call_method") and node.target in known


def moves_values(model: fx.GraphModule, node: fx.Node) -> bool:
    """Whether ``node`` passes units on because it moves values, or adds zeros to them, and changes none."""
    if not may_pass(model, node):
        return False
    if node.op == "call_module":
        return isinstance(model.get_submodule(node.target), _MOVING_MODULES)
    return node.target in (_MOVING_METHODS if node.op == "call_method" else _MOVING_FUNCTIONS)


def keeps_integers(model: fx.GraphModule, node: fx.Node) -> bool:
    """Whether ``node`` passes units on and makes integers of integers: it moves values, or picks the largest."""
    if moves_values(model, node):
        return True
    if node.op == "call_module":
        module = model.get_submodule(node.target)
        return isinstance(module, (_MaxPoolNd, _AdaptiveMaxPoolNd)) and may_pass(model, node)
    return may_pass(model, node) and is_max_pool(model, node)


def reads_values(node: fx.Node) -> bool:
    """Whether ``node`` needs the values of its inputs; for a size or a dtype any units do."""
    return node.target not in _QUESTIONS or "shape" in node.meta


def passed(model: fx.GraphModule, node: fx.Node, args: tuple, kwargs: dict[str, object]) -> object | None:
    """
    :param model: a graph with recorded shapes
    :param node: an operation for which :func:`may_pass` is true
    :param args: what it is called with, each tensor being a unit
    :param kwargs: the same, by name
    :return: the unit of its result, or ``None`` if there is none
    """
    x = args[0] if args else kwargs["input"]
    rank = _spatial_dims(model, node)
    if rank is not None:
        vector = along(x, 1) if x.dim() == rank + 2 else None
        return None if vector is None else _fill(vector, node.meta["shape"])
    if node.target in _REDUCTIONS:
        top = torch.amax(x, *args[1:], **{k: v for k, v in kwargs.items() if k != "input"})
        low = torch.amin(x, *args[1:], **{k: v for k, v in kwargs.items() if k != "input"})
        return top if torch.equal(top, low) else None
    if node.op == "call_module":
        result = model.get_submodule(node.target)(*args, **kwargs)
    elif node.op == "call_method":
        result = getattr(x.contiguous(), node.target)(*args[1:], **kwargs)
    else:
        result = node.target(*args, **kwargs)
    parts = result if isinstance(result, (tuple, list)) else [result]
    # Units that differ within a batch would serve batches of one size only.
    return result if all(shrink(part).shape[:1] in ((), (1,)) for part in parts) else None


def _spatial_dims(model: fx.GraphModule, node: fx.Node) -> int | None:
    """For operations that stay within a channel: the number of axes after the channel axis."""
    if node.op == "call_module":
        module = model.get_submodule(node.target)
        if isinstance(module, _POOLING_MODULES):
            return int(type(module).__name__[-2])  # MaxPool2d
        return len(node.meta["shape"]) - 2 if isinstance(module, nn.Upsample) else None
    if node.target is F.interpolate:
        return len(node.meta["shape"]) - 2
    return _POOLING_FUNCTIONS.get(node.target)


def _fill(vector: Tensor, shape: tuple[int, ...]) -> Tensor | None:
    return vector.view(-1, *[1] * (len(shape) - 2)).expand(shape) if shape[1] == len(vector) else None
