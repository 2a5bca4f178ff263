"""What folding asks about a neuron."""

from __future__ import annotations

from torch import Tensor, fx

from ...neuron import SpikingNode
from ...neuron.spiking_activation import SpikingActivation


def is_foldable(node: fx.Node, names: set[str]) -> bool:
    """Whether ``node`` is one of the neurons that may be folded."""
    return node.op == "call_module" and node.target in names


def neuron_of(model: fx.GraphModule, node: fx.Node) -> SpikingNode:
    """The neuron at ``node``."""
    site = model.get_submodule(node.target)
    assert isinstance(site, SpikingActivation)
    return site.node


def line(neuron: SpikingNode) -> tuple[Tensor, Tensor]:
    """Gain and offset, ``[]`` or ``[C]``, of the line from the mean input to levels that are not rounded yet."""
    gain = 1 / neuron.step.double()
    psi = 0.5 if neuron.psi is None else neuron.psi.double() / neuron.v_threshold.double()
    return gain, neuron.shift.double() * gain + psi
