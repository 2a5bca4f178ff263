"""Moving the ANN and the spiking network through the graph together, node by node."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, fx
from tqdm import tqdm

Visit = Callable[[fx.Node, list[Tensor], list[Tensor]], None]


class Sweep:
    """
    Two networks with the same graph, advanced together over all batches: at each node every batch is computed before
    the next node is looked at, and only values that are still needed are kept. So a calibration that visits the
    sites in order costs one pass of each network, whatever the depth.

    :param ann: the reference
    :param snn: the same graph with other modules
    :param visit: called before each node of ``at`` with the node and its first input in both networks, batch by
        batch; it may change the modules of ``snn`` from this node on
    :param at: names of the modules to stop at
    """

    def __init__(self, ann: fx.GraphModule, snn: fx.GraphModule, visit: Visit, at: set[str]) -> None:
        self._pair = (fx.Interpreter(ann), fx.Interpreter(snn))
        self._visit, self._at = visit, at
        self._nodes = list(zip(ann.graph.nodes, snn.graph.nodes, strict=True))
        self._last_use = {use: node for node in ann.graph.nodes for use in node.all_input_nodes}

    @torch.no_grad()
    def run(self, batches: list[Tensor], progress: bool = False) -> tuple[list, list]:
        """
        :param batches: the inputs
        :param progress: whether a bar over the graph's nodes is drawn
        :return: outputs of ``ann`` and of ``snn``, batch by batch
        """
        values: dict[fx.Node, tuple[list, list]] = {}
        for ann_node, snn_node in tqdm(self._nodes, desc="calibrate layers", disable=not progress, leave=False):
            if ann_node.op == "placeholder":
                values[ann_node] = (batches, batches)
            elif ann_node.op == "output":
                return tuple(
                    [fx.node.map_arg(ann_node.args[0], lambda n: values[n][s][b]) for b in range(len(batches))]
                    for s in (0, 1)
                )
            else:
                if ann_node.target in self._at and ann_node.op == "call_module":
                    self._visit(snn_node, *values[ann_node.args[0]])
                values[ann_node] = tuple(
                    [self._compute(s, ann_node, values, b) for b in range(len(batches))] for s in (0, 1)
                )
            for used in ann_node.all_input_nodes:
                if self._last_use[used] is ann_node:
                    del values[used]
        raise AssertionError("a graph ends with its output")

    def _compute(self, stream: int, node: fx.Node, values: dict, batch: int) -> object:
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda n: values[n][stream][batch])
        return getattr(self._pair[stream], node.op)(node.target, args, kwargs)
