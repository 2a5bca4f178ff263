"""What a batch shows of a graph: shapes, and where the channels lie."""

from __future__ import annotations

import operator

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from ...errors import DataError
from .interpreter import Interpreter

# Operations of one input that keep each channel where it is.
_SAME_AXIS_MODULES = (
    nn.modules.pooling._MaxPoolNd,
    nn.modules.pooling._AvgPoolNd,
    nn.modules.pooling._AdaptiveMaxPoolNd,
    nn.modules.pooling._AdaptiveAvgPoolNd,
    nn.modules.dropout._DropoutNd,
    nn.modules.padding._ConstantPadNd,
    nn.Identity,
    nn.Upsample,
)
_SAME_AXIS_FUNCTIONS = (
    operator.add, operator.sub, operator.mul, operator.truediv, operator.neg,
    torch.add, torch.sub, torch.mul, torch.neg,
)  # fmt: skip
_SAME_AXIS_METHODS = ("add", "sub", "mul", "neg", "contiguous", "clone")


class _ShapeRecorder(Interpreter):
    def __init__(self, model: fx.GraphModule) -> None:
        super().__init__(model)
        self.extra_traceback = False  # the message names the layer already

    def run_node(self, node: fx.Node) -> object:
        """:raises DataError: if the operation fails; the message names it"""
        try:
            value = super().run_node(node)
        except DataError:
            raise
        except Exception as error:
            where = node.target if node.op == "call_module" else node.name
            raise DataError(f"the model fails on a calibration batch, at {where!r}: {error}") from error
        if isinstance(value, Tensor):
            node.meta["shape"] = tuple(value.shape)
            node.meta["is_floating_point"] = value.is_floating_point()
        return value


def record_shapes(model: fx.GraphModule, x: Tensor) -> None:
    """
    Run one batch and note at each node of the graph the shape of its value, ``node.meta["shape"]``, and
    ``node.meta["is_floating_point"]``.

    :param model: a traced network
    :param x: a batch
    :raises DataError: if the model cannot run on the batch; the message names the layer
    """
    with torch.no_grad():
        _ShapeRecorder(model).run(x)


def channel_axis(model: fx.GraphModule, node: fx.Node) -> int | None:
    """
    :param model: a network after :func:`record_shapes`
    :param node: a node of its graph
    :return: the axis of the node's value that holds the channels: 1 after a convolution, the last after a linear
        layer or a normalisation of features; ``None`` where that cannot be told (then one threshold serves the layer)
    """
    source = node
    while True:
        axis = _own_axis(model, source)
        if axis is not None:
            return axis if -len(node.meta.get("shape", ())) <= axis < len(node.meta.get("shape", ())) else None
        if not _keeps_axis(model, source):
            return 1 if len(node.meta.get("shape", ())) == 2 else None
        source = source.args[0]


def input_axis(model: fx.GraphModule, source: fx.Node) -> int | None:
    """
    :param model: a network after :func:`record_shapes`
    :param source: its input
    :return: the axis of the input that the first layers read as channels; ``None`` where that cannot be told
    """
    axes = [axis for user in source.users if (axis := _own_axis(model, user)) is not None]
    return axes[0] if axes else (1 if len(source.meta.get("shape", ())) == 2 else None)


def _own_axis(model: fx.GraphModule, node: fx.Node) -> int | None:
    module = model.get_submodule(node.target) if node.op == "call_module" else None
    if isinstance(module, (_ConvNd, _BatchNorm, nn.GroupNorm)):
        return 1
    if isinstance(module, nn.Linear):
        return -1 if len(node.meta["shape"]) > 2 else 1
    if isinstance(module, nn.LayerNorm):
        return -1
    if node.target is torch.cat:
        return 1 if len(node.meta.get("shape", ())) == 4 else None
    return None


def _keeps_axis(model: fx.GraphModule, node: fx.Node) -> bool:
    if not node.args or not isinstance(node.args[0], fx.Node):
        return False
    same_shape = node.meta.get("shape") is not None and node.meta.get("shape") == node.args[0].meta.get("shape")
    if node.op == "call_module":
        return isinstance(model.get_submodule(node.target), _SAME_AXIS_MODULES) or same_shape
    known = node.target in (_SAME_AXIS_METHODS if node.op == "call_method" else _SAME_AXIS_FUNCTIONS)
    return node.op in ("call_function", "call_method") and known and same_shape
