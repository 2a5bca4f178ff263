"""Which values of a network are its outputs."""

from __future__ import annotations

from torch import fx

from .following import cast
from .operations import operation, operator_of


def output_values(model: fx.GraphModule) -> tuple[set[fx.Node], set[fx.Node]]:
    """
    :param model: a captured network
    :return: the nodes whose values reach an output with nothing but operations in between that move values; and those
        of them that nothing else reads
    """
    reaching: set[fx.Node] = set()
    alone: set[fx.Node] = set()
    for node in reversed(model.graph.nodes):
        onward = [user for user in node.users if user.op == "output" or _moves(model, user)]
        if any(user.op == "output" or user in reaching for user in onward):
            reaching.add(node)
        if node in reaching and len(onward) == len(node.users) and all(u.op == "output" or u in alone for u in onward):
            alone.add(node)
    return reaching, alone


def _moves(model: fx.GraphModule, node: fx.Node) -> bool:
    is_cast = operator_of(node) in ("_to_copy", "type_as") or node.target is cast
    return is_cast or operation(model, node).moves
