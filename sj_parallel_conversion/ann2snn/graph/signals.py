"""Kinds of signal: which layers receive spikes, and which operations stay analogue."""

from __future__ import annotations

from collections.abc import Collection

from torch import fx

from .operations import (
    CONSTANT,
    LAYER,
    NODE,
    NORMALISATION,
    POOLING,
    PRODUCT,
    SCALE,
    WIRE,
    factors,
    is_affine,
    is_kept,
    is_max_pool,
    is_size,
    module_of,
    operation,
)
from .registry import LEAVES

# What a value is made of. A value made of nothing is the same whatever the network is shown.
INPUT, SPIKES, CURRENT, ANALOGUE = "input", "spikes", "current", "analogue"
KEPT = "kept"  # a kind: what the user wants to stay as it is

__all__ = [
    "ANALOGUE", "CONSTANT", "CURRENT", "INPUT", "KEPT", "LAYER", "NODE", "NORMALISATION", "POOLING",
    "PRODUCT", "SCALE", "SPIKES", "WIRE", "Signals", "operation_name",
]  # fmt: skip


class Signals:
    """
    Follows the values of a network from neuron to neuron.

    A value is made of :data:`SPIKES` if it comes from neurons through operations that pass spikes on, each with a
    fixed weight or none: reshaping, concatenation, padding, addition, resampling, pooling. (Max pooling passes on the
    train of the largest unit.) A layer makes a :data:`CURRENT` of it: a graded value, until a neuron receives it. So
    does a product of two values that are made of spikes.

    :param model: a captured network
    :param neurons: the names of the modules that are neurons, or that neurons will stand for
    :param graded_input: whether ``model`` is a part of a network whose input comes from other layers of it
    """

    def __init__(self, model: fx.GraphModule, neurons: Collection[str], graded_input: bool = False) -> None:
        self._model, self._neurons = model, neurons
        self._input = ANALOGUE if graded_input else INPUT
        self.sources: dict[fx.Node, frozenset[str]] = {}
        self.kinds: dict[fx.Node, str] = {}
        # the products of two changing values, whatever these are made of
        self.factors: dict[fx.Node, tuple[fx.Node, ...]] = {}
        for node in model.graph.nodes:
            constants = [n for n in node.all_input_nodes if not self.sources[n]]
            self.kinds[node] = self._kind(node, constants)
            self.sources[node] = self._sources(node)

    def received(self, node: fx.Node) -> frozenset[str]:
        """What the inputs of ``node`` are made of."""
        return frozenset().union(*(self.sources[n] for n in node.all_input_nodes))

    def nodes(self, *kinds: str) -> list[fx.Node]:
        """The nodes of these kinds, in the order in which they run."""
        return [node for node, kind in self.kinds.items() if kind in kinds]

    def operation(self, node: fx.Node) -> str:
        """The name of the module's class, or of the function."""
        module = module_of(self._model, node)
        if module is not None:
            return type(module).__name__
        return getattr(node.target, "__name__", str(node.target)).partition(".")[0]

    def _kind(self, node: fx.Node, constants: list[fx.Node]) -> str:
        kind = self._kind_alone(node, constants)
        return KEPT if is_kept(node) and kind not in (WIRE, CONSTANT) else kind

    def _kind_alone(self, node: fx.Node, constants: list[fx.Node]) -> str:
        if node.op in ("placeholder", "output"):
            return WIRE
        if node.op == "get_attr" or is_size(self._model, node) or len(constants) == len(node.all_input_nodes):
            return CONSTANT
        if node.op == "call_module" and node.target in self._neurons:
            return NODE
        row = operation(self._model, node)
        if is_max_pool(self._model, node):
            return POOLING if self.received(node) in ({INPUT}, {SPIKES}) else ANALOGUE
        if row.kind == LAYER and node.op == "call_module":
            return LAYER
        if not is_affine(self._model, node, constants):
            # What is computed from the network's input alone is a preparation of it, unless a leaf does it.
            is_leaf = isinstance(module_of(self._model, node), tuple(LEAVES))
            is_preparation = self.received(node) == {INPUT} and not is_leaf
            if is_preparation or row.kind == NORMALISATION:
                return WIRE if is_preparation else NORMALISATION
            return self._kind_of_product(node, factors(self._model, node, constants))
        return row.kind

    def _kind_of_product(self, node: fx.Node, pair: tuple[fx.Node, ...]) -> str:
        made = [self.sources[n] for n in pair]
        if made and {INPUT} in made and operation(self._model, node).kind == SCALE:
            return SCALE  # by a mask, or by functions of positions, that the caller gives
        if made:
            self.factors[node] = pair
        return PRODUCT if {SPIKES} in made and all(m in ({SPIKES}, {INPUT}) for m in made) else ANALOGUE

    def _sources(self, node: fx.Node) -> frozenset[str]:
        if node.op == "placeholder":
            return frozenset({self._input})
        own = {NODE: {SPIKES}, LAYER: {CURRENT}, PRODUCT: {CURRENT}, CONSTANT: ()}
        own |= {graded: {ANALOGUE} for graded in (ANALOGUE, KEPT, NORMALISATION)}
        kind = self.kinds[node]
        return frozenset(own[kind]) if kind in own else self.received(node)


def operation_name(node: fx.Node) -> str:
    """The name of the module that ``node`` calls; for a function, the module that it stands in and the node's name."""
    if node.op == "call_module":
        return node.target
    path = node.meta.get("path")
    return f"{path}.{node.name}" if path else node.name
