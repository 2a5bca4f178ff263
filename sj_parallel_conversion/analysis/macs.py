"""Multiply-accumulates of each operation of a converted network, and of what stands around its parts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn
from torch.utils.hooks import RemovableHandle

from ..ann2snn.cpu.prepack import PrepackedConv2d
from ..ann2snn.data.inputs import Batch, Call
from ..ann2snn.graph.macs import MacCounter
from ..ann2snn.network.parts import PartlySpikingNetwork, SpikingSubmodule
from ..ann2snn.network.spiking_network import SpikingNetwork


class _NodeCounter(fx.Interpreter):
    """Runs a graph and adds up the multiply-accumulates of each node."""

    def __init__(self, net: fx.GraphModule) -> None:
        super().__init__(net)
        self.macs: dict[fx.Node, int] = dict.fromkeys(net.graph.nodes, 0)

    def count(self, batch: Batch) -> None:
        with MacCounter() as self._counter:
            self.run(*batch.tensors)

    def run_node(self, node: fx.Node) -> object:
        before = self._counter.total
        value = super().run_node(node)
        self.macs[node] += self._counter.total - before
        return value


@dataclass
class Calls:
    """
    What happened while a partly converted model ran once.

    :param inputs: the tensors of each call of each part
    :param outside: multiply-accumulates of the layers that are in no part
    :param total: all multiply-accumulates
    """

    inputs: dict[str, list[Batch]] = field(default_factory=dict)
    outside: dict[str, int] = field(default_factory=dict)
    total: int = 0


@torch.no_grad()
def count_macs(snn: SpikingNetwork, calls: list[Batch]) -> dict[fx.Node, int]:
    """
    :param snn: a converted network
    :param calls: the inputs of each call
    :return: the multiply-accumulates of each node of its graph, in all calls together
    """
    counter = _NodeCounter(snn.net)
    with _quiet(snn):
        for batch in calls:
            counter.count(batch)
    return counter.macs


@torch.no_grad()
def record_calls(network: PartlySpikingNetwork, call: Call) -> Calls:
    """
    :param network: a partly converted model
    :param call: what it is called with
    :return: the calls of its parts, and what is computed outside of them
    """
    calls, hooks = Calls(), []
    with _quiet(network), MacCounter() as counter:
        for name, module in network.model.named_modules():
            if isinstance(module, SpikingSubmodule):
                hooks.append(module.register_forward_pre_hook(_record_part(calls, name), with_kwargs=True))
        for name, module in _layers_outside(network.model):
            hooks += _record_layer(calls, name, module, counter)
        try:
            network(*call.args, **call.kwargs)
        finally:
            for hook in hooks:
                hook.remove()
    calls.total = counter.total
    return calls


def samples_in(call: Call) -> int:
    """The number of samples in the first input: the length of a batch, or of a list of images."""
    return len(next(iter((*call.args, *call.kwargs.values()))))


def _record_part(calls: Calls, name: str) -> Callable[..., None]:
    def hook(module: SpikingSubmodule, args: tuple[Any, ...], kwargs: dict[str, object]) -> None:
        calls.inputs.setdefault(name, []).append(module.snn.signature.batch(args, kwargs))

    return hook


def _record_layer(calls: Calls, name: str, module: nn.Module, counter: MacCounter) -> list[RemovableHandle]:
    before = 0

    def start(module: nn.Module, args: tuple[Any, ...]) -> None:
        nonlocal before
        before = counter.total

    def end(module: nn.Module, args: tuple[Any, ...], output: object) -> None:
        calls.outside[name] = calls.outside.get(name, 0) + counter.total - before

    return [module.register_forward_pre_hook(start), module.register_forward_hook(end)]


def _layers_outside(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    parts = [name for name, module in model.named_modules() if isinstance(module, SpikingSubmodule)]
    for name, module in model.named_modules():
        inside = any(name == part or name.startswith(f"{part}.") for part in parts)
        if not inside and not any(True for _ in module.children()):
            yield name, module


@contextmanager
def _quiet(snn: SpikingNetwork | PartlySpikingNetwork) -> Iterator[None]:
    """Packed execution, in which no spike trains reach monitors, and operations that can be counted."""
    sites, fastpath = snn.neurons(), torch.backends.mha.get_fastpath_enabled()
    prepacked = [module for module in snn.modules() if isinstance(module, PrepackedConv2d)]
    for module in prepacked:
        module.packs = False
    packed = [site.packed for site in sites]
    for site in sites:  # and not snn.execution, which would begin a new window
        site.packed = True
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        for module in prepacked:
            module.packs = True
        for site, before in zip(sites, packed, strict=True):
            site.packed = before
        torch.backends.mha.set_fastpath_enabled(fastpath)
