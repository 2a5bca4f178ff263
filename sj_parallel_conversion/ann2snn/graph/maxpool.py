"""Max pooling of spike trains: pass on the train of the unit with the largest value."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.nn.modules.pooling import _AdaptiveMaxPoolNd, _MaxPoolNd

_FUNCTIONS = (
    F.max_pool1d,
    F.max_pool2d,
    F.max_pool3d,
    F.adaptive_max_pool1d,
    F.adaptive_max_pool2d,
    F.adaptive_max_pool3d,
)


def is_max_pool(model: fx.GraphModule, node: fx.Node) -> bool:
    """Whether ``node`` is max pooling, as a module or a function."""
    if node.op == "call_module":
        module = model.get_submodule(node.target)
        return isinstance(module, (_MaxPoolNd, _AdaptiveMaxPoolNd)) and not module.return_indices
    return node.op == "call_function" and node.target in _FUNCTIONS


def max_pool_steps(
    model: fx.GraphModule, node: fx.Node, args: tuple, kwargs: dict[str, object], steps: list[Tensor]
) -> list[Tensor]:
    """
    :param model: a traced network
    :param node: a max pooling node of its graph
    :param args: what the node is called with; its input is the mean over time, ``[N, C, ...]``
    :param kwargs: the same, by name
    :param steps: the node's input at each step
    :return: the output at each step: what the unit with the largest mean emits. For sorted trains of one channel,
        which are nested, this is the elementwise maximum of the trains
    """
    if node.op == "call_module":
        pool: nn.Module = copy.copy(model.get_submodule(node.target))
        pool.return_indices = True
        _, indices = pool(*args, **kwargs)
    else:
        _, indices = node.target(*args, **{**kwargs, "return_indices": True})
    spatial = indices.dim() - 2
    flat = indices.flatten(-spatial)
    return [torch.gather(x.flatten(-spatial), -1, flat).view_as(indices) for x in steps]
