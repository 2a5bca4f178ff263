"""What folding asks about a neuron."""

from __future__ import annotations

from torch import Tensor, fx

from ...neuron import SpikingNode
from ...neuron.spiking_activation import SpikingActivation
from ...parameters import exact


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
    gain = 1 / exact(neuron.step)
    psi = 0.5 if neuron.psi is None else exact(neuron.psi) / exact(neuron.v_threshold)
    return gain, exact(neuron.shift) * gain + psi
