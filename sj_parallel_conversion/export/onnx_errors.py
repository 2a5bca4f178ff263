"""Which layer of a network the exporter cannot export."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

from ..ann2snn.graph.signals import operation_name
from .translate import Observed, Translation

_SURE = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


class _Tried(fx.Interpreter):
    """
    Runs a network, and exports each kind of operation alone until one of them fails.

    :param net: a converted graph
    :param observed: of a run of it
    :param export: exports a module with an example of its inputs
    """

    def __init__(
        self, net: fx.GraphModule, observed: Observed, export: Callable[[nn.Module, tuple[Any, ...]], object]
    ) -> None:
        super().__init__(net)
        self.observed, self.export = observed, export
        self.seen: set[object] = set()
        self.failing: fx.Node | None = None

    def run_node(self, node: fx.Node) -> object:
        """As in the base class."""
        result = super().run_node(node)
        module = self.submodules.get(node.target) if node.op == "call_module" else None
        kind = node.target if module is None else (type(module), str(module))
        if node.op.startswith("call") and isinstance(result, Tensor) and not isinstance(module, _SURE):
            if self.failing is None and kind not in self.seen and not self._works(node):
                self.failing = node
            self.seen.add(kind)
        return result

    def _works(self, node: fx.Node) -> bool:
        tensors: list[Any] = []
        translation = Translation(self.module, self.observed)
        for read in node.all_input_nodes:
            value = self.env[read]
            if isinstance(value, Tensor):
                translation.known[read] = translation.graph.placeholder(f"input_{len(tensors)}")
                tensors.append(value)
            else:
                translation.known[read] = value
        try:
            self.export(translation.module(translation.translated(node), "Operation"), tuple(tensors))
        except Exception:
            return False
        return True


@torch.no_grad()
def failing_layer(
    net: fx.GraphModule,
    observed: Observed,
    inputs: tuple[Tensor, ...],
    export: Callable[[nn.Module, tuple[Any, ...]], object],
) -> str | None:
    """
    :param net: a converted graph on the CPU
    :param observed: of a run of it
    :param inputs: of the network
    :param export: exports a module with an example of its inputs
    :return: the name of the first layer that cannot be exported alone; ``None`` if each can
    """
    tried = _Tried(net, observed, export)
    tried.run(*inputs, enable_io_processing=False)
    return None if tried.failing is None else operation_name(tried.failing)
