r"""
Folding: the arithmetic of the neurons becomes part of the weights around them.

A neuron with the value of one level s (``step``), psi, shift and the output per level u (``unit``) computes

.. math:: y = u\,\mathrm{clip}(\lfloor (x + shift) / s + \psi / \theta \rfloor, 0, k_{max}).

The layer before it takes over 1/s and the two offsets, the layers behind it take over u, and what is left is a floor
and a clip on one tensor of levels.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from ...neuron import SpikingNode
from ...neuron.spiking_activation import SpikingActivation
from ..graph import scaling as layers
from ..graph.folded import Rescale, ResidualAdd
from ..graph.interpreter import Interpreter
from ..graph.passes import free_name
from ..graph.shapes import record_shapes
from ..graph.units import SPLITTING, along, may_pass, passed, reads_values, shrink
from .shortcuts import fold_shortcuts, line


@torch.no_grad()
def fold(model: fx.GraphModule, names: Iterable[str], x: Tensor) -> None:
    """
    Fold neurons into the layers of their network, in place. The network computes the same up to float rounding, and
    every neuron emits the same spikes but for inputs that lie within rounding of a threshold. What is folded depends
    on the graph alone, so that a state dict loads into a network that was converted anew.

    :param model: a converted network in plain form
    :param names: the :class:`SpikingActivation` modules that may be folded
    :param x: a batch, of which the shapes are taken
    """
    # Two inputs show what is an axis of the batch, and no more are needed.
    record_shapes(model, x[:2])
    fold_shortcuts(model, set(names))
    _Folding(model, set(names)).run()
    for name in names:
        _freeze(model.get_submodule(name).node)
    model.recompile()


@dataclass(frozen=True)
class _Addition:
    """An addition that leads into a folded neuron: what its result is divided by, and which inputs still have to be."""

    gain: Tensor
    dim: int
    inside: tuple[bool, bool]


class _Folding:
    """
    Two walks over the graph: the first folds the inputs of the neurons, the second their outputs.

    In the second walk ``units`` holds the unit of each value (see :mod:`.graph.units`), and ``owed`` says which values
    are levels that still have to be multiplied by it.
    """

    def __init__(self, model: fx.GraphModule, names: set[str]) -> None:
        self.model, self.names = model, names
        self.additions: dict[fx.Node, _Addition] = {}
        self.units: dict[fx.Node, object] = {}
        self.owed: set[fx.Node] = set()
        self.settled: dict[fx.Node, fx.Node] = {}

    def run(self) -> None:
        nodes = list(self.model.graph.nodes)
        for node in nodes:
            if self._foldable(node):
                self._fold_input(node)
        for node in nodes:
            self.units[node] = self._visit(node)

    def _foldable(self, node: fx.Node) -> bool:
        return node.op == "call_module" and node.target in self.names

    def _neuron(self, node: fx.Node) -> SpikingNode:
        site = self.model.get_submodule(node.target)
        assert isinstance(site, SpikingActivation)
        return site.node

    # inputs

    def _fold_input(self, site: fx.Node) -> None:
        neuron, shape = self._neuron(site), site.meta["shape"]
        found: list[fx.Node] = []
        additions: dict[fx.Node, tuple[bool, bool]] = {}
        # An activation of the neuron's own works on values in the units of the ANN.
        if neuron.activation is not None or not self._grow(site.args[0], shape, found, additions):
            return
        modules = [self.model.get_submodule(node.target) for node in found]
        (dim, *others) = {layers.channel_dim(module, len(shape)) for module in modules}
        per_channel = any(p.dim() for p in neuron.parameters())
        if others or (per_channel and neuron.channel_dim % len(shape) != dim):
            return
        gain, offset = line(neuron)
        for k, module in enumerate(modules):
            layers.scale_output(module, gain, None if k else offset)
        for node, inside in additions.items():
            self.additions[node] = _Addition(gain, dim, inside)
        neuron.folded_input = True

    def _grow(self, node: fx.Node, shape: tuple, found: list, additions: dict) -> bool:
        """Whether what ``node`` computes reaches the neuron alone and can be scaled at its source, in some branches."""
        if len(node.users) != 1 or node.meta.get("shape") != shape:
            return False
        if node.op == "call_module" and layers.takes_output_scale(self.model.get_submodule(node.target)):
            found.append(node)
            return True
        if not _is_addition(node) or any(branch.meta.get("shape") != shape for branch in node.args):
            return False
        inside = tuple(self._grow(branch, shape, found, additions) for branch in node.args)
        if any(inside):
            additions[node] = inside
        return any(inside)

    # outputs

    def _visit(self, node: fx.Node) -> object:
        if node in self.additions:
            self._replace_addition(node, self.additions[node])
            return self._unit_of_values(node)
        owed = [n for n in node.all_input_nodes if n in self.owed and reads_values(node)]
        if owed and self._passes(node):
            unit = passed(self.model, node, *self._arguments(node))
            if unit is not None:
                self.owed.add(node)
                return unit
        if not (owed and self._absorb(node, owed[0])):
            for n in owed:
                node.replace_input_with(n, self._settle(n))
        if self._foldable(node):
            if self._neuron(node).folded_input:
                self.model.get_submodule(node.target).source = (self.model.get_submodule(node.args[0].target),)
            if self._wanted(node):
                return self._fold_output(node)
        return self._unit_of_values(node)

    def _fold_output(self, site: fx.Node) -> object:
        neuron, shape = self._neuron(site), site.meta["shape"]
        unit = neuron.unit.double().cpu()
        if (unit < 0).any():  # max pooling would turn into min pooling
            return self._unit_of_values(site)
        neuron.folded_output = True
        self.owed.add(site)
        if unit.dim():
            dim = neuron.channel_dim % len(shape)
            unit = unit.view([-1 if i == dim else 1 for i in range(len(shape))])
        return unit.expand(shape)

    def _wanted(self, node: fx.Node) -> bool:
        """Whether a layer or a residual addition can take over the unit of ``node``."""
        return any(
            user in self.additions or self._is_layer(user) or (self._passes(user) and self._wanted(user))
            for user in node.users
        )

    def _is_layer(self, node: fx.Node) -> bool:
        return node.op == "call_module" and layers.takes_input_scale(self.model.get_submodule(node.target))

    def _passes(self, node: fx.Node) -> bool:
        tensors = [n for n in node.all_input_nodes if _holds_tensors(n)]
        return may_pass(self.model, node) and (len(tensors) == 1 or node.target in (torch.cat, torch.concat))

    def _absorb(self, node: fx.Node, source: fx.Node) -> bool:
        if not self._is_layer(node):
            return False
        layer = self.model.get_submodule(node.target)
        unit = self.units[source]
        factor = along(unit, layers.channel_dim(layer, unit.dim()))
        if factor is not None:
            layers.scale_input(layer, factor.to(layer.weight.device))
        return factor is not None

    def _replace_addition(self, node: fx.Node, addition: _Addition) -> None:
        own, other = node.args if addition.inside[0] else reversed(node.args)
        factor = None if all(addition.inside) else addition.gain
        if other in self.owed:
            unit = along(self.units[other], addition.dim)
            if unit is None:
                other = self._settle(other)
            else:
                factor = factor * unit.to(factor.device)
        if factor is not None:
            dims = len(node.meta["shape"]) - addition.dim - 1
            factor = self._like_parameters(factor.view(-1, *[1] * dims) if factor.dim() else factor)
        source = self.model.get_submodule(own.target)
        node.target = self._add_module(node, ResidualAdd(factor, source), "residual")
        node.op, node.args = "call_module", (own, other)

    def _settle(self, node: fx.Node) -> fx.Node:
        """The node of the graph that holds the value of ``node``, the multiplication by its unit done."""
        if node not in self.settled:
            factor = shrink(self.units[node])
            while factor.dim() and factor.shape[0] == 1:
                factor = factor[0]
            name = self._add_module(node, Rescale(self._like_parameters(factor)), "value")
            with self.model.graph.inserting_after(node):
                value = self.model.graph.call_module(name, (node,))
            value.meta["shape"] = node.meta["shape"]
            self.settled[node] = value
            self.units[value] = self._unit_of_values(value)
        return self.settled[node]

    def _add_module(self, node: fx.Node, module: nn.Module, what: str) -> str:
        name = free_name(self.model, f"{node.name}_{what}")
        self.model.add_submodule(name, module)
        return name

    def _like_parameters(self, factor: Tensor) -> Tensor:
        return factor.to(next(self.model.parameters())).contiguous()

    def _arguments(self, node: fx.Node) -> tuple:
        return fx.node.map_arg((node.args, node.kwargs), self.units.__getitem__)

    def _unit_of_values(self, node: fx.Node) -> object:
        """Ones for a tensor; what is no tensor (a size, say) is computed from units, which have the same shapes."""
        if "shape" in node.meta:
            return torch.ones((), dtype=torch.float64).expand(node.meta["shape"])
        # Modules that return several tensors, such as attention, leave no unit in any of them.
        known = all(self.units[n] is not None for n in node.all_input_nodes)
        if node.op not in ("call_function", "call_method") or not known:
            return None
        args, kwargs = self._arguments(node)
        return getattr(Interpreter(self.model), node.op)(node.target, args, kwargs)


def _is_addition(node: fx.Node) -> bool:
    called = node.target in (operator.add, torch.add) if node.op == "call_function" else node.target == "add"
    branches = node.args if called and node.op in ("call_function", "call_method") and not node.kwargs else ()
    return len(branches) == 2 and branches[0] is not branches[1] and all(isinstance(b, fx.Node) for b in branches)


def _holds_tensors(node: fx.Node) -> bool:
    """Whether the value of ``node`` is a tensor, or a tuple of parts of one."""
    if node.target is operator.getitem and "shape" not in node.meta:
        return _holds_tensors(node.args[0])
    return "shape" in node.meta or node.target in SPLITTING


def _freeze(neuron: SpikingNode) -> None:
    """What no longer acts asks for no gradient."""
    threshold_acts = not neuron.folded_input or (neuron.amplitude is None and not neuron.folded_output)
    for parameter, acts in (
        (neuron.v_threshold, threshold_acts),
        (neuron.psi, not neuron.folded_input),
        (neuron.shift, not neuron.folded_input),
        (neuron.amplitude, not neuron.folded_output),
    ):
        if parameter is not None and not acts:
            parameter.requires_grad_(False)
