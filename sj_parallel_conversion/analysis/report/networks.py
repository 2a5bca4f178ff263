"""Converted networks and models that are converted in parts, seen alike."""

from __future__ import annotations

from collections.abc import Iterator

from ...ann2snn.network.parts import PartlySpikingNetwork
from ...ann2snn.network.spiking_network import SpikingNetwork
from ...neuron.spiking_activation import SpikingActivation

NETWORKS = (SpikingNetwork, PartlySpikingNetwork)
Converted = SpikingNetwork | PartlySpikingNetwork


def parts_of(snn: Converted) -> dict[str, SpikingNetwork]:
    """The converted networks in ``snn`` by their names in the ANN; ``""`` for one that is converted whole."""
    parts: dict[str, SpikingNetwork] = {"": snn} if isinstance(snn, SpikingNetwork) else snn.parts
    return parts


def first_part(snn: Converted) -> SpikingNetwork:
    """The network that tells the options of the conversion, which are those of all parts."""
    return next(iter(parts_of(snn).values()))


def mode_of(snn: Converted) -> str:
    """The mode of the conversion."""
    return first_part(snn).config.mode


def spiking_layers(snn: Converted) -> Iterator[tuple[str, SpikingActivation]]:
    """The neurons' places, with their names in the ANN, in the order in which they run."""
    for prefix, part in parts_of(snn).items():
        for node, name in zip(part.net.graph.nodes, part.operation_names, strict=True):
            module = part.net.get_submodule(node.target) if node.op == "call_module" else None
            if isinstance(module, SpikingActivation):
                yield f"{prefix}.{name}" if prefix else name, module
