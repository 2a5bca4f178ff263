"""The state dict of a converted network: it is refused by a network of other options, which are named."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import fx

from ...neuron import SpikingNode
from ...neuron.records import Record, Recorded, has_record, refuse
from ...user_warnings import warn
from ..config import ConversionConfig
from ..graph import is_kept

_SHORTCUT = re.compile(r"_shortcut(_\d+)?\.node$")  # the name of the second neuron of a membrane shortcut


class RecordedNetwork(Recorded):
    """Base of :class:`~.spiking_network.SpikingNetwork`: what its state dict says, and what is compared."""

    net: fx.GraphModule
    config: ConversionConfig

    def record(self) -> Record:
        """The options of the conversion that give the tensors their meaning, and the kind of the weights."""
        membrane = any(_SHORTCUT.search(name) for name, _ in self.named_modules())
        int8 = any(buffer.dtype == torch.int8 for buffer in self.net.buffers())
        return {
            **self.config.as_record(),
            "shortcut": "membrane" if membrane else "spikes",
            "weights": "int8" if int8 else "float",
            "keep": sorted(node.target for node in self.net.graph.nodes if node.op == "call_module" and is_kept(node)),
        }

    def check_state_dict(self, state_dict: Mapping[str, object], prefix: str = "") -> None:
        """As in :class:`Recorded`. Options that have left no trace in either network may differ."""
        named = self.named_modules(prefix=prefix.removesuffix("."))
        nodes = {f"{name}.": module for name, module in named if isinstance(module, SpikingNode)}
        if _thresholds(state_dict, prefix) and not has_record(state_dict, prefix):
            warn(
                "the state dict does not say with which options it was saved, as those of earlier versions. Load it "
                "with strict=False, and only where the network was converted with the same options"
            )
        differences = self.differences(state_dict, prefix)
        if {"weights", "keep", "frame_tau"} & differences.keys() or not _has_neurons(nodes, state_dict, prefix):
            refuse(self, differences, prefix)
        for name, node in nodes.items():
            node.check_state_dict(state_dict, name)


def _has_neurons(nodes: dict[str, SpikingNode], state_dict: Mapping[str, object], prefix: str) -> bool:
    """Whether ``state_dict`` is of a network with these neurons, no more and no less."""
    theirs = {key.removesuffix("v_threshold") for key in _thresholds(state_dict, prefix)}
    return theirs == nodes.keys() and not any(node.differences(state_dict, name) for name, node in nodes.items())


def _thresholds(state_dict: Mapping[str, object], prefix: str) -> list[str]:
    return [key for key in state_dict if key.startswith(f"{prefix}net.") and key.endswith(".node.v_threshold")]
