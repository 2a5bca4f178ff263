"""Captured networks for tests. A network of :mod:`nets` is captured once and copied for each test that asks for it."""

from __future__ import annotations

import copy
from functools import cache

import torch
from nets import net
from torch import Tensor, fx, nn

from sj_parallel_conversion.ann2snn import graph
from sj_parallel_conversion.ann2snn.data.batches import CalibrationData
from sj_parallel_conversion.ann2snn.graph.plain import PlainGraph
from sj_parallel_conversion.ann2snn.graph.shapes import record_shapes
from sj_parallel_conversion.ann2snn.graph.signature import Signature

CPU = torch.device("cpu")


def data_of(ann: nn.Module, *batches: object) -> CalibrationData:
    """Calibration data for ``ann``, as a converter makes it."""
    return CalibrationData(list(batches), ann, CPU, None, False)


def captured(ann: nn.Module, batch: object, free_sizes: bool | None = None) -> tuple[PlainGraph, Signature]:
    """
    :param ann: a network
    :param batch: what a dataloader yields
    :param free_sizes: as in ``graph_of``
    :return: the graph, whose nodes have the shapes of ``batch``, and what it takes and returns
    """
    data = data_of(ann, batch)
    model, signature = graph.graph_of(ann, data, CPU, free_sizes)
    record_shapes(model, data.first())
    return model, signature


@cache
def _captured_net(name: str) -> tuple[nn.Module, Tensor, PlainGraph]:
    ann, x = net(name)
    return ann, x, captured(ann, x)[0]


def captured_net(name: str) -> tuple[nn.Module, Tensor, PlainGraph]:
    """A network of ``nets.NETS``, an input for it, and its graph with shapes; all may be changed."""
    ann, x, model = _captured_net(name)
    return copy.deepcopy(ann), x.clone(), copy.deepcopy(model)


class Functions(nn.Module):
    """
    Many functions of one input, to be captured at once.

    :param functions: by name; they take this module, which has layers and a parameter, and the input
    """

    def __init__(self, functions: dict[str, object]) -> None:
        super().__init__()
        self.functions = functions
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(12, 12, generator=generator))

    def forward(self, x: Tensor) -> dict[str, object]:
        return {name: function(self, x) for name, function in self.functions.items()}


def outputs_of(model: fx.GraphModule) -> list[object]:
    """The nodes that the graph returns."""
    (output,) = (node for node in model.graph.nodes if node.op == "output")
    return list(output.args[0])


def modules_of(model: fx.GraphModule) -> dict[str, nn.Module]:
    """The modules that a graph calls, by name, in order."""
    return {node.target: model.get_submodule(node.target) for node in model.graph.nodes if node.op == "call_module"}
