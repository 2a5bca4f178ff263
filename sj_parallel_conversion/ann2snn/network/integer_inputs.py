"""Inputs of integers or bools with a time axis: which of them have a mean over time."""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn

from ...errors import DataError
from ..graph.following import cast
from ..graph.operations import MUST_NOT_CHANGE, is_cast_to_integers, is_size, module_of, operator_of


def is_constant(x_seq: Tensor) -> bool:
    """Whether ``x_seq`` ``[T, ...]`` is the same at each step."""
    return x_seq.stride(0) == 0 or bool((x_seq == x_seq[:1]).all())


def as_numbers(net: fx.GraphModule, number: int, name: str, x_seq: Tensor) -> Tensor:
    """
    :param net: a converted graph
    :param number: of one of its inputs
    :param name: what the caller knows it by
    :param x_seq: ``[T, N, ...]``, integers or bools that change over time
    :return: the same as floats, so that they have a mean
    :raises DataError: if the network needs integers there, as token ids or a mask
    """
    node = [node for node in net.graph.nodes if node.op == "placeholder"][number]
    use = _use_as_integers(net, node)
    if use is not None:
        raise DataError(
            f"the input {name!r} changes from step to step, and the network needs it as {x_seq.dtype} (at {use!r}), "
            "as token ids or masks are needed. A mean over time, which is what the network computes with, makes no "
            "sense there. Give the same at each step, and show another input in a window of its own: snn.predict(x)"
        )
    return x_seq.to(torch.get_default_dtype())


def _use_as_integers(net: fx.GraphModule, source: fx.Node) -> str | None:
    """The operation that takes a value computed from ``source`` as indices, as a mask, or casts it to integers."""
    stack, seen = [source], {source}
    while stack:
        node = stack.pop()
        for user in node.users:
            if _needs_integers(net, user, node):
                return user.target if user.op == "call_module" else user.name
            if user not in seen and not _is_float(net, user):
                seen.add(user)
                stack.append(user)
    return None


def _needs_integers(net: fx.GraphModule, user: fx.Node, node: fx.Node) -> bool:
    if isinstance(module_of(net, user), (nn.Embedding, nn.EmbeddingBag)) or is_cast_to_integers(user):
        return True
    name = operator_of(user) or ""
    if name.startswith("bitwise_"):
        return True
    at = MUST_NOT_CHANGE.get(name)
    found: list[fx.Node] = []
    fx.node.map_arg(user.args[at : at + 1] if at is not None else (), found.append)
    return node in found


def _is_float(net: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a node has floats, or no values, whatever its input has."""
    if node.op != "call_function" or node.target is cast or is_size(net, node):
        return True
    return operator_of(node) == "_to_copy" and "dtype" in node.kwargs  # of the casts, those to integers are found above
