"""Which operations commute with the mean over time: synapses, in the language of spiking networks."""

from __future__ import annotations

import operator
from collections.abc import Collection

import torch
from torch import fx, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.pooling import _AdaptiveAvgPoolNd, _AvgPoolNd

from .folded import Rescale, ResidualAdd, ToLevels
from .maxpool import is_max_pool

_MODULES = (
    _ConvNd,
    _AvgPoolNd,
    _AdaptiveAvgPoolNd,
    nn.Linear,
    nn.Flatten,
    nn.Unflatten,
    nn.Identity,
    nn.Upsample,
    nn.PixelShuffle,
    nn.PixelUnshuffle,
    nn.ChannelShuffle,
    nn.modules.padding._ConstantPadNd,
    nn.modules.padding._ReflectionPadNd,
    nn.modules.padding._ReplicationPadNd,
    Rescale,
    ResidualAdd,
    ToLevels,
)
# Affine in all their tensor arguments together.
_FUNCTIONS = {
    operator.add, operator.sub, operator.neg, operator.getitem, torch.add, torch.sub, torch.cat, torch.concat,
    torch.stack, torch.mean, torch.sum, torch.flatten, torch.reshape, torch.permute, torch.transpose, torch.squeeze,
    torch.unsqueeze, torch.chunk, torch.split, torch.roll, torch.flip, F.pad, F.interpolate, F.dropout,
    F.avg_pool1d, F.avg_pool2d, F.avg_pool3d, F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d,
    F.pixel_shuffle, F.pixel_unshuffle, getattr,
}  # fmt: skip
_METHODS = {
    "add", "sub", "neg", "mean", "sum", "flatten", "reshape", "view", "permute", "transpose", "squeeze", "unsqueeze",
    "chunk", "split", "contiguous", "clone", "roll", "flip", "expand", "repeat", "t", "size", "dim", "narrow",
}  # fmt: skip
# Affine in one tensor argument, the others being constants.
_BILINEAR = {
    operator.mul, operator.truediv, operator.matmul, torch.mul, torch.div, torch.matmul, torch.bmm, F.linear,
    F.conv1d, F.conv2d, F.conv3d, "mul", "div", "matmul",
}  # fmt: skip


def is_affine(model: fx.GraphModule, node: fx.Node, constants: Collection[fx.Node] = ()) -> bool:
    """
    :param model: a traced network in evaluation mode
    :param node: a node of its graph
    :param constants: nodes that are known to be the same whatever the network is shown, beside its parameters
    :return: whether the mean over time may be taken before the node instead of after it
    """
    if node.op == "get_attr":
        return True
    if node.op == "call_module":
        module = model.get_submodule(node.target)
        if isinstance(module, _DropoutNd):
            return not module.training  # one mask serves the whole window
        if isinstance(module, _BatchNorm):
            return module.running_mean is not None and not module.training
        return isinstance(module, _MODULES)
    if node.op not in ("call_function", "call_method"):
        return False
    if node.target in _BILINEAR:
        # all occurrences, because x * x is not affine in x
        inputs: list[fx.Node] = []
        fx.node.map_arg((node.args, node.kwargs), inputs.append)
        changing = [n for n in inputs if n.op != "get_attr" and n not in constants]
        divides = node.target in (operator.truediv, torch.div, "div") and node.args[0] not in changing
        return len(changing) <= 1 and not divides and "rounding_mode" not in node.kwargs
    return node.target in (_METHODS if node.op == "call_method" else _FUNCTIONS)


def affine_tail(model: fx.GraphModule) -> set[fx.Node]:
    """The nodes from which only affine operations, and max pooling, which is lossless on trains, lead to the output."""
    tail: set[fx.Node] = set()
    for node in reversed(model.graph.nodes):
        passes_trains = is_affine(model, node) or is_max_pool(model, node)
        if passes_trains and node.users and all(user in tail or user.op == "output" for user in node.users):
            tail.add(node)
    return tail
