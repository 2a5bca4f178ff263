"""Moving the ANN and the spiking network through the graph together, node by node."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, fx
from tqdm import tqdm

from ... import ranks
from ...neuron.spiking_activation import SpikingActivation
from ..data.cache import Spool, Spooled
from ..data.inputs import Batch
from .output_error import packed

Batches = Spooled[Tensor] | list[Tensor]  # at the nodes that are visited
Values = dict[fx.Node, tuple[Spooled[Any], Spooled[Any]]]  # of both networks; a node may give anything


class Visitor:
    """What a calibration does on the way. Lists hold one tensor a batch; the spiking network's may be changed."""

    def before(self, node: fx.Node, ann_input: Batches, snn_input: Batches) -> None:
        """Called when ``node`` is about to run, for nodes with one input or more."""

    def after(self, node: fx.Node, snn_input: Batches, ann_output: Batches, snn_output: Batches) -> None:
        """Called when ``node`` has run."""


class Sweep:
    """
    Two networks with the same graph, advanced together over all batches: at each node every batch is computed before
    the next node is looked at, and only values that are still needed are kept. So a calibration that visits the
    sites in order costs one pass of each network, whatever the depth. Up to the first neuron the two are one.

    :param ann: the reference
    :param snn: the same graph, with neurons
    :param sites: names of the activations in ``ann`` that are neurons in ``snn``; the visitor is called there
    :param at: names of further modules at which the visitor is called
    :param spool: keeps the values; ``None``: with the usual limit
    """

    def __init__(
        self,
        ann: fx.GraphModule,
        snn: fx.GraphModule,
        sites: set[str],
        at: set[str] | None = None,
        spool: Spool | None = None,
    ) -> None:
        self._spool = Spool() if spool is None else spool
        self._snn = snn
        self._pair = (_interpreter(ann), _interpreter(snn))
        self._sites, self._at = sites, sites | (at or set())
        self._nodes = list(ann.graph.nodes)
        self._last_use = {use: node for node in self._nodes for use in node.all_input_nodes}

    @torch.no_grad()
    def run(self, batches: Iterable[Batch], visitor: Visitor, progress: bool = False) -> None:
        """
        :param batches: the inputs
        :param visitor: called at the modules ``at``
        :param progress: whether a bar over the graph's nodes is drawn
        """
        inputs = self._inputs(batches)
        with packed(self._snn):
            self._run(inputs, visitor, progress)

    def _inputs(self, batches: Iterable[Batch]) -> list[Spooled[Any]]:
        """For each input of the network its tensors, batch by batch."""
        inputs: list[Spooled[Any]] = [self._spool.keep([]) for node in self._nodes if node.op == "placeholder"]
        for batch in batches:
            for kept, x in zip(inputs, batch.tensors, strict=True):
                kept.append(x)
        return inputs

    def _run(self, inputs: list[Spooled[Any]], visitor: Visitor, progress: bool) -> None:
        values: Values = {}
        count = len(inputs[0])
        inputs.reverse()
        for node in tqdm(self._nodes, desc="calibrate layers", disable=not (progress and ranks.leads()), leave=False):
            if node.op == "placeholder":
                values[node] = (inputs[-1], inputs.pop())
            elif node.op != "output":
                values[node] = self._advance(node, values, count, visitor)
            for used in (node, *node.all_input_nodes):
                if self._last_use.get(used, used) is node:
                    values.pop(used, None)

    def _advance(
        self, node: fx.Node, values: Values, count: int, visitor: Visitor
    ) -> tuple[Spooled[Any], Spooled[Any]]:
        visited = node.op == "call_module" and node.target in self._at
        if visited:
            visitor.before(node, *values[node.args[0]])
        same = all(values[n][0] is values[n][1] for n in node.all_input_nodes)
        ann_output = self._spool.keep(self._compute(0, node, values, b) for b in range(count))
        if same and not self._differs(node):
            return ann_output, ann_output
        snn_output = self._spool.keep(self._compute(1, node, values, b) for b in range(count))
        if visited:
            visitor.after(node, values[node.args[0]][1], ann_output, snn_output)
        return ann_output, snn_output

    def _differs(self, node: fx.Node) -> bool:
        """Whether the networks compute different things at ``node``: at the sites, and where the input is encoded."""
        if node.op != "call_module":
            return False
        return node.target in self._sites or isinstance(self._pair[1].submodules[node.target], SpikingActivation)

    def _compute(self, stream: int, node: fx.Node, values: Values, batch: int) -> Any:
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda n: values[n][stream][batch])
        return getattr(self._pair[stream], node.op)(node.target, args, kwargs)


def _interpreter(model: fx.GraphModule) -> fx.Interpreter:
    interpreter = fx.Interpreter(model)
    interpreter.extra_traceback = False  # errors go out as they are
    return interpreter
