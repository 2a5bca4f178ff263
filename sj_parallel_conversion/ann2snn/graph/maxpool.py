"""Max pooling of spike trains: pass on the train of the unit with the largest value."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, fx

from .operations import module_of, operator_of


def max_pool_steps(
    model: fx.GraphModule, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, object], steps: list[Tensor]
) -> list[Tensor]:
    """
    :param model: a captured network
    :param node: a max pooling node of its graph
    :param args: what the node is called with; its input is the mean over time, ``[N, C, ...]``
    :param kwargs: the same, by name
    :param steps: the node's input at each step
    :return: the output at each step: what the unit with the largest mean emits. For sorted trains of one channel,
        which are nested, this is the elementwise maximum of the trains
    """
    module = module_of(model, node)
    if module is None:  # its sizes depend on those of the input
        _, indices = getattr(torch.ops.aten, f"{operator_of(node)}_with_indices").default(*args, **kwargs)
    else:
        pool: Any = copy.copy(module)
        pool.return_indices = True
        _, indices = pool(*args, **kwargs)
    spatial = indices.dim() - 2
    flat = indices.flatten(-spatial)
    return [torch.gather(x.flatten(-spatial), -1, flat).view_as(indices) for x in steps]
