"""An activation that is composed of operators: the captured formula, as a module."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, fx, nn

from ...torch_compat import is_random, packet_name
from .plain import PlainGraph, called, put, value_of

_WIDER = 8.0  # that many times the range of its inputs is looked at
_POINTS = 4097


class Formula(nn.Module):
    """
    A function of each value alone, as it was captured.

    :param body: its graph, from one value ``[N, ...]`` to one of the same shape

    ``bounds`` are its least and greatest value, ``example`` the shape of a value that its constants fit, with 1 where
    they serve any size; empty if they serve any shape.
    """

    def __init__(self, body: PlainGraph) -> None:
        super().__init__()
        self.body = body
        self.bounds = (-math.inf, math.inf)
        self.example: tuple[int, ...] = ()

    def forward(self, x: Tensor) -> Tensor:
        """:param x: ``[N, ...]``. :return: the same shape"""
        return self.body(x)

    def measure(self, low: float, high: float) -> None:
        """
        Set :attr:`bounds` from what the formula gives on a range of inputs and far around it. A bound that it comes
        nearer and nearer to, or goes beyond with the range, is none.

        :param low: the least input of the calibration data
        :param high: the greatest
        """
        wide = _WIDER * max(abs(low), abs(high), 1.0)
        near, far = (self._range(reach) for reach in (wide, 4 * wide))
        if near is None or far is None:
            return
        slack = 1e-3 * max(abs(near[0]), abs(near[1]))
        lower = near[0] if far[0] >= near[0] - slack else -math.inf
        upper = near[1] if far[1] <= near[1] + slack else math.inf
        tiny = 1e-6 * max(abs(near[0]), abs(near[1]), 1e-30)
        if lower > -tiny:  # a least value above 0 is one only if the formula does not come nearer to 0
            lower = lower if far[0] >= lower * (1 - 1e-3) and lower > 0 else 0.0
        else:
            lower *= 1 + 1e-3
        self.bounds = (lower, max(upper, 0.0) * (1 + 1e-3))

    @torch.no_grad()
    def _range(self, reach: float) -> tuple[float, float] | None:
        """The least and the greatest value for inputs up to ``reach``; ``None`` if it cannot be told."""
        points, shape = self._points(reach), self.example
        x = points.view(-1, *[1] * (len(shape) - 1)).expand(len(points), *shape[1:]) if shape else points
        y = self.body(x)
        y = y[y.isfinite()]
        return (float(y.min()), float(y.max())) if y.numel() else None

    def _points(self, reach: float) -> Tensor:
        like = next((t for t in [*self.parameters(), *self.buffers()] if t.is_floating_point()), torch.empty(0))
        half = torch.logspace(-4, 0, _POINTS // 2, dtype=torch.float64) * reach
        return torch.cat([-half.flip(0), torch.zeros(1, dtype=torch.float64), half]).to(like)

    @torch.no_grad()
    def is_relu(self, low: float, high: float) -> bool:
        """As :meth:`measure`: whether the formula is ``max(x, 0)`` to the bit, and nothing in it can be trained."""
        if self.example or any(True for _ in self.parameters()):
            return False
        points = self._points(_WIDER * max(abs(low), abs(high), 1.0))
        return torch.equal(self.body(points), points.relu())

    def extra_repr(self) -> str:
        """What ``print`` shows of it."""
        return called(self.body)

    @staticmethod
    def of(model: fx.GraphModule, source: fx.Node, nodes: tuple[fx.Node, ...]) -> Formula:
        """
        :param model: a graph
        :param source: the value that the activation works on
        :param nodes: its operations, in order; the last gives the result
        :return: the same as a module, with constants of its own
        """
        formula = Formula(captured_body(model, (source,), nodes))
        dims = len(source.meta["shape"])
        shapes = [_constant_shape(formula.body, n, dims) for n in formula.body.graph.nodes if n.op == "get_attr"]
        if any(math.prod(shape) > 1 for shape in shapes):
            formula.example = tuple(torch.broadcast_shapes([1] * dims, *shapes))
        return formula


def captured_body(model: fx.GraphModule, sources: Sequence[fx.Node], nodes: Sequence[fx.Node]) -> PlainGraph:
    """
    :param model: a graph
    :param sources: the values that the operations work on
    :param nodes: the operations, in order; the last gives the result
    :return: the same as a graph of its own, with constants of its own
    """
    graph, root = fx.Graph(), nn.Module()
    copies = {source: graph.placeholder("x" if len(sources) == 1 else f"x{i}") for i, source in enumerate(sources)}
    for source, copy in copies.items():
        copy.meta.update({k: v for k, v in source.meta.items() if k in ("shape", "is_floating_point")})

    def copied(node: fx.Node) -> fx.Node:
        if node not in copies:
            copies[node] = _constant(model, graph, root, node)
        return copies[node]

    for node in nodes:
        assert not is_random(node.target)
        copies[node] = graph.node_copy(node, copied)
    graph.output(copies[nodes[-1]])
    return PlainGraph(root, graph)


def _constant_shape(root: nn.Module, node: fx.Node, dims: int) -> tuple[int, ...]:
    """The shape of a constant as it meets a value of ``dims`` axes: the slopes of a PReLU lie along the channels."""
    value = getattr(root, node.target)
    if value.dim() == 1 and dims > 2 and any(packet_name(user.target) == "prelu" for user in node.users):
        return (len(value), *[1] * (dims - 2))
    return tuple(value.shape)


def _constant(model: fx.GraphModule, graph: fx.Graph, root: nn.Module, node: fx.Node) -> fx.Node:
    """A constant of the activation: a parameter or a buffer, or what is computed of such."""
    if node.op != "get_attr":
        raise AssertionError(f"{node} is no constant")
    value = cast(Tensor, value_of(model, node.target))
    name = node.meta.get("name", node.target).rpartition(".")[2]
    while hasattr(root, name):
        name += "_"
    copy = value.detach().clone()
    put(root, name, nn.Parameter(copy, value.requires_grad) if isinstance(value, nn.Parameter) else copy)
    with graph.inserting_after(next(iter(graph.nodes))):
        new = graph.create_node("get_attr", name)
    new.meta.update({k: v for k, v in node.meta.items() if k in ("shape", "is_floating_point")})
    return new
