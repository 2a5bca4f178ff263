"""What a batch shows of a graph: shapes, and where the channels lie."""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.instancenorm import _InstanceNorm

from ...errors import DataError
from ...torch_compat import is_pointwise
from ..data.inputs import Batch
from .operations import module_of, operation, operator_of


class _ShapeRecorder(fx.Interpreter):
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


def record_shapes(model: fx.GraphModule, batch: Batch) -> None:
    """
    Run one batch and note at each node of the graph the shape of its value, ``node.meta["shape"]``, and
    ``node.meta["is_floating_point"]``.

    :param model: a captured network
    :param batch: its inputs
    :raises DataError: if the network cannot run on the batch; the message names the layer
    """
    with torch.no_grad():
        _ShapeRecorder(model).run(*batch.tensors)


def channel_axis(model: fx.GraphModule, node: fx.Node) -> int | None:
    """
    :param model: a network with shapes
    :param node: a node of its graph
    :return: the axis of the node's value that holds the channels: 1 after a convolution, the last after a linear
        layer or a normalisation of features; ``None`` where that cannot be told (then one threshold serves the layer)
    """
    shape = node.meta.get("shape", ())
    axis = _axis(model, node)
    if axis is None:
        axis = 1 if len(shape) == 2 else node.meta.get("channel_axis")
    return axis if axis is not None and -len(shape) <= axis < len(shape) else None


def layer_axis(model: fx.GraphModule, layer: fx.Node) -> int | None:
    """The axis that a layer reads as channels; ``None`` for all other operations."""
    module = module_of(model, layer)
    return -1 if isinstance(module, nn.Linear) else 1 if isinstance(module, _ConvNd) else None


def input_axis(model: fx.GraphModule, source: fx.Node) -> int | None:
    """
    :param model: a network with shapes
    :param source: its input
    :return: the axis of the input that the first layers read as channels; ``None`` where that cannot be told
    """
    axes = [axis for user in source.users if (axis := _own_axis(model, user)) is not None]
    return axes[0] if axes else (1 if len(source.meta.get("shape", ())) == 2 else None)


def _axis(model: fx.GraphModule, node: fx.Node) -> int | None:
    """The axis of the channels, followed back to the layer that made them."""
    while True:
        own = _own_axis(model, node)
        if own is not None:
            return own
        name = operator_of(node)
        if name == "cat":
            return _axis_of_parts(model, node)
        source = next((n for n in node.all_input_nodes if n.op != "get_attr"), None)
        if source is None or "shape" not in source.meta or "shape" not in node.meta:
            return None
        if name in ("permute", "transpose"):
            axis = _axis(model, source)
            return None if axis is None else _moved(node, name, axis % len(source.meta["shape"]))
        if not _keeps_axes(model, node, source):
            return None
        node = source


def _axis_of_parts(model: fx.GraphModule, node: fx.Node) -> int | None:
    dims = len(node.meta.get("shape", ()))
    axes = {None if (axis := _axis(model, n)) is None else axis % max(dims, 1) for n in node.all_input_nodes}
    return axes.pop() if len(axes) == 1 else None


def _moved(node: fx.Node, name: str, axis: int) -> int:
    dims = len(node.meta["shape"])
    if name == "permute":
        return [d % dims for d in node.args[1]].index(axis)
    first, second = (d % dims for d in node.args[1:3])
    return second if axis == first else first if axis == second else axis


def _keeps_axes(model: fx.GraphModule, node: fx.Node, source: fx.Node) -> bool:
    same_rank = len(node.meta["shape"]) == len(source.meta["shape"])
    same_shape = node.meta["shape"] == source.meta["shape"]
    if node.op == "call_module" or is_pointwise(node.target):
        return same_shape or (same_rank and operation(model, node).keeps_axes)
    return same_rank and operation(model, node).keeps_axes


def _own_axis(model: fx.GraphModule, node: fx.Node) -> int | None:
    module, dims = module_of(model, node), len(node.meta.get("shape", ()))
    if isinstance(module, (_ConvNd, _BatchNorm, _InstanceNorm, nn.GroupNorm)):
        return 1
    if isinstance(module, (nn.Linear, nn.Embedding)):
        return -1 if dims > 2 else 1
    if isinstance(module, nn.LayerNorm):
        return -len(module.normalized_shape)
    return None
