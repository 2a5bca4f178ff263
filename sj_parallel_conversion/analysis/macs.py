"""Counting multiply-accumulates, with torch's own counter."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import fx
from torch.utils.flop_counter import FlopCounterMode

from ..ann2snn import SpikingNetwork


class _Counter(fx.Interpreter):
    def __init__(self, net: fx.GraphModule) -> None:
        super().__init__(net)
        self.macs: dict[fx.Node, int] = {}

    def count(self, inputs: tuple[object, ...]) -> None:
        with FlopCounterMode(display=False) as self._flops:
            self.run(*inputs)

    def run_node(self, node: fx.Node) -> object:
        before = self._flops.get_total_flops()
        value = super().run_node(node)
        self.macs[node] = (self._flops.get_total_flops() - before) // 2  # a multiply-accumulate is two operations
        return value


@torch.no_grad()
def count_macs(snn: SpikingNetwork, inputs: tuple[object, ...]) -> dict[fx.Node, int]:
    """
    :param snn: a converted network
    :param inputs: what it is run with
    :return: the multiply-accumulates of each node of its graph, for one sample: a batch counts as its mean
    """
    counter = _Counter(snn.net)
    with _quiet(snn):
        counter.count(inputs)
    return {node: macs // len(inputs[0]) for node, macs in counter.macs.items()}


@contextmanager
def _quiet(snn: SpikingNetwork) -> Iterator[None]:
    """Packed execution, in which no spike trains reach monitors, and attention in operations that can be counted."""
    execution, fastpath = snn.execution, torch.backends.mha.get_fastpath_enabled()
    snn.execution = "packed"
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        snn.execution = execution
        torch.backends.mha.set_fastpath_enabled(fastpath)
