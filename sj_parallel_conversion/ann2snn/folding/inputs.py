"""What happens before a neuron: the layers that feed it compute in units of one level."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx

from ..graph import scaling as layers
from ..graph.normalisation import Normalisation
from ..graph.operations import is_addition, is_kept, module_of
from .neurons import is_foldable, line, neuron_of
from .shortcuts import read_levels


@dataclass(frozen=True)
class Addition:
    """An addition that leads into a folded neuron: what its result is divided by, and which inputs still have to be."""

    gain: Tensor
    dim: int
    inside: tuple[bool, bool]


class FoldInputs:
    """
    A walk over the graph that folds the inputs of neurons: the layers before them take over 1/s and the offsets.

    :param model: a converted network with shapes; its layers are changed in place
    :param names: the neurons that may be folded
    """

    def __init__(self, model: fx.GraphModule, names: set[str]) -> None:
        self.model, self.names = model, names
        self.additions: dict[fx.Node, Addition] = {}

    def run(self) -> dict[fx.Node, Addition]:
        """:return: the additions between these layers and the neurons, which :class:`~.outputs.FoldOutputs` replaces"""
        for node in self.model.graph.nodes:
            if is_foldable(node, self.names):
                self._fold_input(node)
        return self.additions

    def _fold_input(self, site: fx.Node) -> None:
        neuron, shape = neuron_of(self.model, site), site.meta["shape"]
        found: list[fx.Node] = []
        additions: dict[fx.Node, tuple[bool, bool]] = {}
        if neuron.activation is not None:  # which works on values in the units of the ANN
            return
        if not self._grow(site.args[0], shape, found, additions):
            if neuron.signed or isinstance(module_of(self.model, site.args[0]), Normalisation):
                read_levels(self.model, site, site.args[0], 1)
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
            self.additions[node] = Addition(gain, dim, inside)
        neuron.folded_input = True

    def _takes_scale(self, node: fx.Node) -> bool:
        return not is_kept(node) and layers.takes_output_scale(self.model.get_submodule(node.target))

    def _grow(self, node: fx.Node, shape: tuple[Any, ...], found: list[Any], additions: dict[str, Any]) -> bool:
        """Whether what ``node`` computes reaches the neuron alone and can be scaled at its source, in some branches."""
        if len(node.users) != 1 or node.meta.get("shape") != shape:
            return False
        if node.op == "call_module" and self._takes_scale(node):
            found.append(node)
            return True
        if not is_addition(node) or any(branch.meta.get("shape") != shape for branch in node.args):
            return False
        inside = tuple(self._grow(branch, shape, found, additions) for branch in node.args)
        if any(inside):
            additions[node] = inside
        return any(inside)
