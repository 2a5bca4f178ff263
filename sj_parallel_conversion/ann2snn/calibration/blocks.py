"""Blocks: parts of a network through which all that neurons have changed passes as one value."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from torch import fx

from .patches import LAYERS

_NEURONS = 2  # in a block at least: a layer makes up for what the neuron behind it does
_NOT_RUN = ("placeholder", "get_attr", "output")


@dataclass(frozen=True)
class Block:
    """
    Some nodes of a graph, one behind the other.

    :param nodes: in the order in which they run
    :param inputs: what they read of the nodes before
    :param outputs: what later nodes read of them
    :param changed: the one of these that neurons have changed; ``None`` if there are several, or none
    """

    nodes: list[fx.Node]
    inputs: list[fx.Node]
    outputs: list[fx.Node]
    changed: fx.Node | None

    def of(self, model: fx.GraphModule) -> fx.GraphModule:
        """
        :param model: a network with the same graph
        :return: the block in it, a function of the inputs that gives a tuple. Its modules are those of ``model``
        """
        graph = fx.Graph()
        copies = {node: graph.placeholder(node.name) for node in self.inputs}
        for node in self.nodes:
            for constant in node.all_input_nodes:
                if constant.op == "get_attr" and constant not in copies:
                    copies[constant] = graph.node_copy(constant)
            copies[node] = graph.node_copy(node, copies.__getitem__)
        graph.output(tuple(copies[node] for node in self.outputs))
        return fx.GraphModule(model, graph)


def find_blocks(model: fx.GraphModule, neurons: Collection[str]) -> list[Block]:
    """
    A block ends where one value is all that later nodes read of what the neurons have changed, as behind a residual
    block, if it has two neurons or more and a layer.

    :param model: a network with shapes
    :param neurons: names of the modules that are neurons
    :return: first what runs before the neurons, then the blocks, in the order in which they run
    """
    nodes = [node for node in model.graph.nodes if node.op not in _NOT_RUN]
    place = {node: i for i, node in enumerate(model.graph.nodes)}
    last_use = {node: max((place[user] for user in node.users), default=-1) for node in nodes}
    first = next(i for i, node in enumerate(nodes) if node.target in neurons)
    changed: set[Any] = set()
    parts, current = [nodes[:first]], []
    for node in nodes[first:]:
        current.append(node)
        if node.target in neurons or not changed.isdisjoint(node.all_input_nodes):
            changed.add(node)
        live = [n for n in changed if last_use[n] > place[node]]
        if live == [node] and node.target not in neurons and _is_block(model, current, neurons):
            parts.append(current)
            current = []
    if current and len(parts) > 1 and not _is_block(model, current, neurons):
        current = parts.pop() + current
    return [_block(part, changed, last_use, place) for part in [*parts, current] if part]


def _is_block(model: fx.GraphModule, nodes: list[fx.Node], neurons: Collection[str]) -> bool:
    modules = [node for node in nodes if node.op == "call_module"]
    layers = [node for node in modules if type(model.get_submodule(node.target)) in LAYERS]
    return "shape" in nodes[-1].meta and bool(layers) and sum(n.target in neurons for n in modules) >= _NEURONS


def _block(
    nodes: list[fx.Node], changed: set[fx.Node], last_use: dict[fx.Node, int], place: dict[fx.Node, int]
) -> Block:
    own = set(nodes)
    read = dict.fromkeys(n for node in nodes for n in node.all_input_nodes if n not in own and n.op != "get_attr")
    outputs = [node for node in nodes if last_use[node] > place[nodes[-1]]]
    by_neurons = [node for node in outputs if node in changed]
    return Block(nodes, list(read), outputs, by_neurons[0] if len(by_neurons) == 1 else None)
