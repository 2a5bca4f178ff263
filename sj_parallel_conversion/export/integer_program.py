"""A network as a list of operations on integers: the list, and what is known of the values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, fx

from ..ann2snn.graph.signals import operation_name
from ..errors import ConfigError
from .translate import Observed

# What a value is: graded floats of the input, levels, or the sum of weights times levels.
GRADED, LEVELS, CURRENT = "graded", "levels", "current"


@dataclass(frozen=True)
class Value:
    """
    A value of the network.

    :param kind: :data:`GRADED`, :data:`LEVELS` or :data:`CURRENT`
    :param unit: for levels: what an integer stands for, in each channel where channels differ
    :param largest: for levels: the largest integer, in magnitude
    :param group: for currents: the number of the layers whose currents are added, and so have one unit
    """

    kind: str
    unit: float | tuple[float, ...] = 1.0
    largest: int = 0
    group: int = -1


@dataclass
class Step:
    """
    One operation.

    :param op: its name in a file
    :param node: of the network's graph
    :param inputs: the names of what it reads
    :param settings: numbers of its form
    :param tensors: weights and the like, as floats
    :param reads: the values that it reads
    :param result: the value that it makes
    """

    op: str
    node: fx.Node
    inputs: list[str]
    result: Value
    reads: list[Value]
    settings: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)

    @property
    def layer(self) -> str:
        """The name of the layer in the network."""
        return operation_name(self.node)


class Program:
    """
    The operations of a network, to be filled one by one.

    :param observed: of a run of the network, which knows shapes
    """

    def __init__(self, observed: Observed) -> None:
        self.observed = observed
        self.steps: list[Step] = []
        self.values: dict[fx.Node, Value] = {}
        self.alias: dict[fx.Node, fx.Node] = {}
        self.outputs: tuple[fx.Node, ...] = ()
        self.merged: list[int] = []  # for each group the one that it has become a part of

    def group(self, value: Value) -> int:
        """The group of a current after all additions."""
        number = value.group
        while self.merged[number] != number:
            number = self.merged[number]
        return number

    def name(self, node: fx.Node) -> str:
        """The name of a value."""
        return self.alias.get(node, node).name

    def refuse(self, node: fx.Node, why: str) -> ConfigError:
        """An error that names a node."""
        return ConfigError(f"export_integers: layer {operation_name(node)!r} {why}")

    def put(self, op: str, node: fx.Node, reads: list[fx.Node], result: Value, **rest: object) -> None:
        """Append a step."""
        tensors = {key: value.detach() for key, value in rest.items() if isinstance(value, Tensor)}
        settings = {key: value for key, value in rest.items() if not isinstance(value, Tensor) and value is not None}
        inputs = [self.name(read) for read in reads]
        self.steps.append(Step(op, node, inputs, result, [self.values[r] for r in reads], settings, tensors))
        self.values[node] = result

    def same(self, node: fx.Node, source: fx.Node) -> None:
        """``node`` has the value of ``source``."""
        self.values[node] = self.values[source]
        self.alias[node] = self.alias.get(source, source)

    def shape(self, node: fx.Node) -> tuple[int, ...]:
        """The shape of a value for the calibration data's sizes."""
        return tuple(self.observed.shapes[node])

    def levels(self, node: fx.Node, source: fx.Node, one_unit: bool = True) -> Value:
        """
        :param node: that reads ``source``
        :param source: a node before it
        :param one_unit: whether all channels have to stand for the same
        :return: the value of ``source``
        :raises ConfigError: if it is none of integers
        """
        value = self.values[source]
        if value.kind != LEVELS:
            raise self.refuse(node, f"reads {value.kind} values, and not levels of neurons")
        if one_unit and isinstance(value.unit, tuple):
            raise self.refuse(node, "reads levels that stand for another value in each channel")
        return value
