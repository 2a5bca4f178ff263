"""What the values of a graph are made of."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from sj_parallel_conversion.ann2snn.graph import Flow, operation_name


class Expression(nn.Module):
    """A function of layers and a neuron."""

    def __init__(self, function: object) -> None:
        super().__init__()
        self.function = function
        self.conv, self.conv2, self.act = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.ReLU()
        self.bn, self.weight = nn.BatchNorm2d(3), nn.Parameter(torch.ones(3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def flow_of(function: object, graded_input: bool = False) -> tuple[Flow, dict[str, fx.Node]]:
    model = fx.symbolic_trace(Expression(function).eval())
    return Flow(model, {"act"}, graded_input), {node.name: node for node in model.graph.nodes}


# What the output is made of.
SOURCES = {
    "input": (lambda m, x: x, {"input"}),
    "prepared input": (lambda m, x: torch.log(x.abs() + 1) / x.shape[1], {"input"}),
    "layer": (lambda m, x: m.conv(x), {"current"}),
    "neuron": (lambda m, x: m.act(m.conv(x)), {"spikes"}),
    "max pooling of spikes": (lambda m, x: F.max_pool2d(m.act(x), 2), {"spikes"}),
    "max pooling of currents": (lambda m, x: F.max_pool2d(m.conv(x), 2), {"analogue"}),
    "average pooling": (lambda m, x: F.adaptive_avg_pool2d(m.act(x), 1).flatten(1), {"spikes"}),
    "resampling": (lambda m, x: F.interpolate(m.act(x), size=x.shape[-2:], mode="bilinear"), {"spikes"}),
    "sum of spikes": (lambda m, x: m.act(x) + m.act(x).flip(2), {"spikes"}),
    "spikes and currents": (lambda m, x: torch.cat([m.act(x), m.conv(x)], 1), {"spikes", "current"}),
    "scaled spikes": (lambda m, x: m.bn(m.act(x)) * m.weight / 3, {"spikes"}),
    "scaled by a size": (lambda m, x: m.act(x) / x.shape[-1] ** 0.5, {"spikes"}),
    "sum with a parameter": (lambda m, x: m.act(x) + m.weight, {"spikes"}),
    "product": (lambda m, x: m.act(x) * m.act(x), {"analogue"}),
    "softmax": (lambda m, x: m.act(x).softmax(1), {"analogue"}),
    "normalisation": (lambda m, x: F.layer_norm(m.act(x), (4,)), {"analogue"}),
    "slices": (lambda m, x: m.act(x).chunk(3, 1)[1][:, :, 1:], {"spikes"}),
    "parameter": (lambda m, x: m.weight * 2, set()),
    "size": (lambda m, x: m.conv(x).shape[0] * 2, set()),
}


@pytest.mark.parametrize("name", SOURCES)
def test_sources(name: str) -> None:
    function, expected = SOURCES[name]
    flow, nodes = flow_of(function)
    assert flow.received(nodes["output"]) == expected


KINDS = {
    "matmul with a parameter": (lambda m, x: torch.matmul(m.act(x), m.weight[:, :, 0]), "matmul", "layer"),
    "matmul of two values": (lambda m, x: torch.matmul(m.act(x), m.conv(x)), "matmul", "analogue"),
    "mean": (lambda m, x: m.act(x).mean((2, 3)), "mean", "pooling"),
    "batch norm": (lambda m, x: m.bn(m.conv(x)), "bn", "scale"),
    "neuron": (lambda m, x: m.act(x), "act", "node"),
    "reshape": (lambda m, x: m.act(x).flatten(1), "flatten", "wire"),
}


@pytest.mark.parametrize("name", KINDS)
def test_kinds(name: str) -> None:
    function, node, kind = KINDS[name]
    flow, nodes = flow_of(function)
    assert flow.kinds[nodes[node]] == kind


def test_input_that_other_layers_compute() -> None:
    flow, nodes = flow_of(lambda m, x: m.conv(x), graded_input=True)
    assert flow.received(nodes["conv"]) == {"analogue"}


def test_functions_are_named_after_the_module_that_they_stand_in() -> None:
    model = fx.symbolic_trace(nn.Sequential(Expression(lambda m, x: F.softmax(m.conv(x), 1))))
    names = [operation_name(node) for node in model.graph.nodes]
    assert names[1:3] == ["0.conv", "0.softmax"]
