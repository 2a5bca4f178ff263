"""Where the values of a graph come from: which layers receive spikes, and which operations stay analogue."""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection

import torch
from torch import fx, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.pooling import _AdaptiveAvgPoolNd, _AvgPoolNd

from .affine import is_affine
from .maxpool import is_max_pool

# What a value is made of. A value made of nothing is the same whatever the network is shown.
INPUT, SPIKES, CURRENT, ANALOGUE = "input", "spikes", "current", "analogue"
# What a node of the graph is.
NODE, LAYER, POOLING, SCALE, WIRE, CONSTANT = "node", "layer", "pooling", "scale", "wire", "constant"

_LAYER_MODULES = (_ConvNd, nn.Linear, nn.Embedding, nn.EmbeddingBag)
_LAYER_FUNCTIONS = {
    F.linear, F.conv1d, F.conv2d, F.conv3d, torch.matmul, operator.matmul, torch.bmm, "matmul",
}  # fmt: skip
_POOLING_MODULES = (_AvgPoolNd, _AdaptiveAvgPoolNd)
_POOLING_FUNCTIONS = {
    F.avg_pool1d, F.avg_pool2d, F.avg_pool3d, F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d,
    torch.mean, "mean",
}  # fmt: skip
_SCALES = {operator.mul, operator.truediv, torch.mul, torch.div, "mul", "div"}
_SIZES = {"size", "dim", "numel", "stride", "type", "is_floating_point", "new_zeros", "new_ones", len, torch._assert}


class Flow:
    """
    Follows the values of a network from neuron to neuron.

    A value is made of :data:`SPIKES` if it comes from neurons through operations that pass spikes on, each with a
    fixed weight or none: reshaping, concatenation, padding, addition, resampling, pooling. (Max pooling passes on the
    train of the largest unit.) A layer makes a :data:`CURRENT` of it: a graded value, until a neuron receives it.

    :param model: a traced network
    :param neurons: the names of the modules that are neurons, or that neurons will stand for
    :param graded_input: whether ``model`` is a part of a network whose input comes from other layers of it
    """

    def __init__(self, model: fx.GraphModule, neurons: Collection[str], graded_input: bool = False) -> None:
        self._model, self._neurons = model, neurons
        self._input = ANALOGUE if graded_input else INPUT
        self.sources: dict[fx.Node, frozenset[str]] = {}
        self.kinds: dict[fx.Node, str] = {}
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
        """The name of the module's class, or of the function or method."""
        if node.op == "call_module":
            return type(self._model.get_submodule(node.target)).__name__
        return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))

    def _kind(self, node: fx.Node, constants: list[fx.Node]) -> str:
        if node.op in ("placeholder", "output"):
            return WIRE
        if node.op == "get_attr" or _is_size(node) or len(constants) == len(node.all_input_nodes):
            return CONSTANT
        if node.op == "call_module" and node.target in self._neurons:
            return NODE
        if is_max_pool(self._model, node):
            return POOLING if self._passes_trains(node) else ANALOGUE
        module = self._model.get_submodule(node.target) if node.op == "call_module" else None
        if isinstance(module, _LAYER_MODULES):
            return LAYER
        # What is computed from the network's input alone is a preparation of it.
        if not is_affine(self._model, node, constants):
            return WIRE if self.received(node) == {INPUT} else ANALOGUE
        for kind, modules, functions in (
            (LAYER, _LAYER_MODULES, _LAYER_FUNCTIONS),
            (POOLING, _POOLING_MODULES, _POOLING_FUNCTIONS),
            (SCALE, _BatchNorm, _SCALES),
        ):
            if isinstance(module, modules) or node.target in functions:
                return kind
        return WIRE

    def _passes_trains(self, node: fx.Node) -> bool:
        return self.received(node) in ({INPUT}, {SPIKES})

    def _sources(self, node: fx.Node) -> frozenset[str]:
        if node.op == "placeholder":
            return frozenset({self._input})
        own = {NODE: {SPIKES}, LAYER: {CURRENT}, ANALOGUE: {ANALOGUE}, CONSTANT: ()}.get(self.kinds[node])
        return self.received(node) if own is None else frozenset(own)


def _is_size(node: fx.Node) -> bool:
    if node.target is getattr:
        return node.args[1] not in ("T", "mT", "H", "mH", "data", "real")
    target: str | Callable = node.target
    return node.op in ("call_method", "call_function") and target in _SIZES


def operation_name(node: fx.Node) -> str:
    """The name of the module that ``node`` calls; for a function, the module that it stands in and the node's name."""
    if node.op == "call_module":
        return node.target
    stack = list(node.meta.get("nn_module_stack", ()))
    return f"{stack[-1]}.{node.name}" if stack and stack[-1] else node.name
