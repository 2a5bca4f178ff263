"""
Where bytes pass in a network with int8 layers, and no floats.

Levels stay in bytes from the neuron to the layers that read them, through pooling, concatenation, and all that only
moves values. Where an int8 layer is in front of the neuron, its kernel makes them. Currents that int8 layers alone read
are bytes as well: the kernel that makes them knows what its readers make of floats.
"""

from __future__ import annotations

import operator

from torch import fx, nn

from ...neuron import SpikingNode
from ...neuron.spiking_activation import SpikingActivation
from ..graph.folded import ResidualAdd
from ..graph.operations import is_addition, module_of, operator_of
from ..graph.units import keeps_integers
from .byte_pool import ByteMaxPool2d, pools_bytes
from .int8_layers import MAX_LEVEL, ByteFlow, Int8Layer
from .prepack import is_plain_convolution

# Operators that move bytes as they move floats. Others may lack a kernel.
_MOVING = {
    "reshape", "view", "flatten", "permute", "transpose", "squeeze", "unsqueeze", "cat", "slice", "select", "chunk",
    "split", "split_with_sizes", "contiguous", "clone", "constant_pad_nd",
}  # fmt: skip


def level_nodes(net: fx.GraphModule) -> tuple[set[fx.Node], list[fx.Node]]:
    """
    :param net: a converted graph
    :return: the nodes whose values are levels from 0 to 255, and the layers that read them and may have int8 weights
    """
    levels: set[fx.Node] = set()
    layers = []
    for node in net.graph.nodes:
        module = module_of(net, node)
        read = [n for n in node.all_input_nodes if n in levels]
        if isinstance(module, SpikingActivation):
            if _emits_bytes(module.node):
                levels.add(node)
        elif read and (type(module) is nn.Linear or is_plain_convolution(module)):
            layers.append(node)
        elif read and keeps_integers(net, node):
            # sizes have no shape, and neither have tuples of levels
            if all(n in levels for n in node.all_input_nodes if "shape" in n.meta):
                levels.add(node)
    return levels, layers


def _emits_bytes(neuron: SpikingNode) -> bool:
    return neuron.folded_output and neuron.min_level == 0 and neuron.code.max_level(neuron.T) <= MAX_LEVEL


def pass_bytes(net: fx.GraphModule) -> None:
    """
    Tell the neurons and the int8 layers of a graph which of them may pass bytes.

    :param net: a graph with int8 layers
    """
    levels, _ = level_nodes(net)
    sites = [module for module in net.modules() if isinstance(module, SpikingActivation)]
    if not sites:  # as in a file that was changed
        return
    flow = ByteFlow(sites[0])
    for node in net.graph.nodes:
        module = module_of(net, node)
        if isinstance(module, SpikingActivation) and node in levels:
            _pass_levels(net, node, levels, flow)
        elif isinstance(module, Int8Layer):
            module.flow = flow
            _pass_currents(net, node, module, flow)


def _pass_levels(net: fx.GraphModule, node: fx.Node, levels: set[fx.Node], flow: ByteFlow) -> None:
    """Let a neuron emit bytes if all that reads it takes bytes, and the layer in front of it, if nothing else reads."""
    site, source = net.get_submodule(node.target), node.args[0]
    readers = _byte_readers(net, node, levels)
    if not readers:
        return
    site.byte_readers = tuple(readers)
    layer = module_of(net, source)
    if isinstance(layer, Int8Layer) and len(source.users) == 1 and site.node.folded_input:
        flow.neurons[layer], site.levels_from = site, (layer,)


def _byte_readers(net: fx.GraphModule, node: fx.Node, levels: set[fx.Node]) -> list[nn.Module] | None:
    """The layers that read ``node`` in bytes, at once or after moving them; ``None`` if something else reads it."""
    found: list[nn.Module] = []
    for reader in node.users:
        module = module_of(net, reader)
        if isinstance(module, Int8Layer):
            found.append(module)
        elif isinstance(module, ResidualAdd):
            if reader.args[0] in levels:
                return None
        elif is_addition(reader):
            if levels.issuperset(reader.all_input_nodes):  # their sum may have no room in a byte
                return None
        elif reader in levels and _keeps_bytes(net, reader):
            further = _byte_readers(net, reader, levels)
            if further is None:
                return None
            found += further
        else:
            return None
    return found


def _keeps_bytes(net: fx.GraphModule, node: fx.Node) -> bool:
    module = module_of(net, node)
    if module is None:
        return operator_of(node) in _MOVING or node.target is operator.getitem or _pads_with_zeros(node)
    return isinstance(module, nn.Identity) or (isinstance(module, ByteMaxPool2d) and pools_bytes())


def _pads_with_zeros(node: fx.Node) -> bool:
    return operator_of(node) == "pad" and (len(node.args) < 3 or node.args[2] == "constant")


def _pass_currents(net: fx.GraphModule, node: fx.Node, layer: Int8Layer, flow: ByteFlow) -> None:
    """Let a layer emit bytes if all that reads its currents are layers that make such bytes of them."""
    modules = [module_of(net, reader) for reader in node.users]
    readers = [module for module in modules if isinstance(module, Int8Layer) and module.reads is not None]
    if len(readers) == len(modules) and len({reader.code for reader in readers}) == 1:
        flow.connect(layer, tuple(readers))
