"""What happens behind a neuron: the layers that read its levels multiply them by what a level is worth."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn

from ...parameters import exact
from ..graph import scaling as layers
from ..graph.folded import Rescale, ResidualAdd
from ..graph.normalisation import Normalisation
from ..graph.operations import is_kept, module_of, operator_of
from ..graph.passes import free_name
from ..graph.units import SPLITTING, along, may_pass, passed, reads_values, shrink
from .inputs import Addition
from .neurons import is_foldable, neuron_of


class FoldOutputs:
    """
    A walk over the graph that folds the outputs of neurons. ``units`` holds the unit of each value (see
    :mod:`..graph.units`), and ``owed`` says which values are levels that still have to be multiplied by it.

    :param model: a converted network with shapes, changed in place
    :param names: the neurons that may be folded
    :param additions: of :class:`~.inputs.FoldInputs`
    """

    def __init__(self, model: fx.GraphModule, names: set[str], additions: dict[fx.Node, Addition]) -> None:
        self.model, self.names, self.additions = model, names, additions
        self.units: dict[fx.Node, Any] = {}
        self.owed: set[fx.Node] = set()
        self.settled: dict[fx.Node, fx.Node] = {}

    def run(self) -> None:
        """Change the graph."""
        for node in list(self.model.graph.nodes):
            self.units[node] = self._visit(node)

    def _visit(self, node: fx.Node) -> object:
        if node in self.additions:
            self._replace_addition(node, self.additions[node])
            return self._unit_of_values(node)
        owed = [n for n in node.all_input_nodes if n in self.owed and reads_values(self.model, node)]
        if owed and self._passes(node):
            unit = passed(self.model, node, *self._arguments(node))
            if unit is not None:
                self.owed.add(node)
                return unit
        if not (owed and self._absorb(node, owed[0])):
            for n in owed:
                node.replace_input_with(n, self._settle(n))
        if is_foldable(node, self.names):
            if neuron_of(self.model, node).folded_input:
                self.model.get_submodule(node.target).source = (self.model.get_submodule(node.args[0].target),)
            if self._wanted(node):
                return self._fold_output(node)
            if self._cancels(node):
                neuron_of(self.model, node).folded_output = True
        return self._unit_of_values(node)

    def _fold_output(self, site: fx.Node) -> object:
        neuron, shape = neuron_of(self.model, site), site.meta["shape"]
        unit = exact(neuron.unit).cpu()
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

    def _cancels(self, node: fx.Node) -> bool:
        """Whether the unit of ``node`` does not matter: it is a factor of a product, and of what that is divided by."""
        product = next((user for user in node.users if operator_of(user) in ("matmul", "bmm")), None)
        others = [user for user in node.users if user is not product]
        if product is None or len(others) != 1 or not isinstance(module_of(self.model, others[0]), Normalisation):
            return False
        return product.args[0] is node and product.args[1] is not node and others[0].args == (product, node)

    def _is_layer(self, node: fx.Node) -> bool:
        if node.op != "call_module" or is_kept(node):  # what a level is worth stays outside of a kept layer
            return False
        return layers.takes_input_scale(self.model.get_submodule(node.target))

    def _passes(self, node: fx.Node) -> bool:
        tensors = [n for n in node.all_input_nodes if _holds_tensors(n)]
        return may_pass(self.model, node) and (len(tensors) == 1 or operator_of(node) == "cat")

    def _absorb(self, node: fx.Node, source: fx.Node) -> bool:
        if not self._is_layer(node):
            return False
        layer = self.model.get_submodule(node.target)
        unit = self.units[source]
        factor = along(unit, layers.channel_dim(layer, unit.dim()))
        if factor is not None:
            layers.scale_input(layer, factor)
        return factor is not None

    def _replace_addition(self, node: fx.Node, addition: Addition) -> None:
        own, other = node.args if addition.inside[0] else reversed(node.args)
        factor = None if all(addition.inside) else addition.gain
        if other in self.owed:
            unit = along(self.units[other], addition.dim)
            if unit is None:
                other = self._settle(other)
            else:
                assert factor is not None  # a branch that is owed its unit is not inside
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

    def _arguments(self, node: fx.Node) -> tuple[Any, ...]:
        return fx.node.map_arg((node.args, node.kwargs), self.units.__getitem__)

    def _unit_of_values(self, node: fx.Node) -> Any:
        """Ones for a tensor; what is no tensor (a size, say) is computed from units, which have the same shapes."""
        if "shape" in node.meta:
            return torch.ones((), dtype=torch.float64).expand(node.meta["shape"])
        # Modules that return several tensors, such as attention, leave no unit in any of them.
        known = all(self.units[n] is not None for n in node.all_input_nodes)
        if node.op != "call_function" or not known:
            return None
        args, kwargs = self._arguments(node)
        return node.target(*args, **kwargs)


def _holds_tensors(node: fx.Node) -> bool:
    """Whether the value of ``node`` is a tensor, or a tuple of parts of one."""
    return "shape" in node.meta or operator_of(node) in SPLITTING
