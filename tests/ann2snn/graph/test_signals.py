"""What the values of a graph are made of."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from captured import Functions, captured, outputs_of
from torch import Tensor, fx, nn
from torch.nn import functional as F

from sj_parallel_conversion.ann2snn.graph import Signals, operation_name

IMAGES = torch.randn(2, 3, 4, 6, generator=torch.Generator().manual_seed(0))


class Expressions(Functions):
    """Functions of layers and a neuron."""

    def __init__(self, functions: dict[str, object]) -> None:
        super().__init__(functions)
        self.conv, self.conv2, self.act = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.ReLU()
        self.bn, self.weight = nn.BatchNorm2d(3), nn.Parameter(torch.ones(3, 1, 1))
        self.square = nn.Parameter(torch.ones(6, 6))


@cache
def expressions(graded_input: bool = False) -> tuple[Signals, dict[str, object]]:
    """What each value of :data:`SOURCES` and :data:`KINDS` is made of, and the nodes of their results."""
    functions = {name: function for name, (function, _) in (SOURCES | KINDS).items()}
    model, _ = captured(Expressions(functions).eval(), IMAGES)
    neurons = {name for name, module in model.named_modules() if isinstance(module, nn.ReLU)}
    return Signals(model, neurons, graded_input), dict(zip(functions, outputs_of(model), strict=True))


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
    "product": (lambda m, x: m.act(x) * m.act(x), {"current"}),
    "product with a current": (lambda m, x: m.act(x) * m.conv(x), {"analogue"}),
    "softmax": (lambda m, x: m.act(x).softmax(1), {"analogue"}),
    "normalisation": (lambda m, x: F.layer_norm(m.act(x), (6,)), {"analogue"}),
    "slices": (lambda m, x: m.act(x).chunk(3, 1)[1][:, :, 1:], {"spikes"}),
    "parameter": (lambda m, x: m.weight * 2, set()),
    "size": (lambda m, x: m.conv(x).shape[0] * 2, set()),
    "positions": (lambda m, x: torch.arange(x.shape[-1]).float() * m.weight, set()),
    "spikes that are picked": (lambda m, x: m.act(x)[:, [2, 0]], {"spikes"}),
    "spikes at places that others choose": (lambda m, x: m.act(x).gather(1, m.conv(x).argmax(1, True)), {"analogue"}),
    "spikes that are masked": (lambda m, x: m.act(x).masked_fill(m.square[:4] > 2, 0.0), {"spikes"}),
    "zeros of the same form": (lambda m, x: m.act(x) + torch.zeros_like(m.conv(x)), {"spikes"}),
}


KINDS = {
    "product with a parameter": (lambda m, x: torch.matmul(m.act(x), m.square), "layer"),
    "product of spikes": (lambda m, x: torch.matmul(m.act(x), m.act(x).transpose(2, 3)), "product"),
    "product in words": (lambda m, x: torch.einsum("nchw,ncvw->nhv", m.act(x), m.act(x)), "product"),
    "product with the input": (lambda m, x: m.conv(x) * x, "scale"),
    "product of two values": (lambda m, x: torch.matmul(m.act(x), m.conv(x).transpose(2, 3)), "analogue"),
    "mean": (lambda m, x: m.act(x).mean((2, 3)), "pooling"),
    "batch norm": (lambda m, x: m.bn(m.conv(x)), "scale"),
    "neuron": (lambda m, x: m.act(x), "node"),
    "reshape": (lambda m, x: m.act(x).flatten(1), "wire"),
    "layer": (lambda m, x: m.conv2(m.act(x)), "layer"),
    "normalisation": (lambda m, x: F.instance_norm(m.act(x)), "normalisation"),
    "size": (lambda m, x: x.shape[3] + 1, "constant"),
}  # fmt: skip


@pytest.mark.parametrize("name", SOURCES)
def test_sources(name: str) -> None:
    signals, nodes = expressions()
    assert signals.sources[nodes[name]] == SOURCES[name][1]


@pytest.mark.parametrize("name", KINDS)
def test_kinds(name: str) -> None:
    signals, nodes = expressions()
    assert signals.kinds[nodes[name]] == KINDS[name][1]


def test_nodes_of_a_kind_are_in_order() -> None:
    signals, _ = expressions()
    layers = signals.nodes("layer")
    order = {node: i for i, node in enumerate(layers[0].graph.nodes)}
    assert len(layers) > 5 and [order[node] for node in layers] == sorted(order[node] for node in layers)


def test_input_that_other_layers_compute() -> None:
    signals, nodes = expressions(graded_input=True)
    assert signals.sources[nodes["input"]] == {"analogue"}
    assert signals.received(nodes["layer"]) == {"spikes"} and signals.sources[nodes["prepared input"]] == {"analogue"}


def test_names_of_operations() -> None:
    class Inner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x).softmax(1)

    model, _ = captured(nn.Sequential(Inner(), nn.ReLU()), IMAGES)
    computed: list[fx.Node] = list(model.graph.nodes)[1:4]
    assert [operation_name(node) for node in computed] == ["0.conv", "0.softmax", "1"]
    signals = Signals(model, {"1"})
    assert [signals.operation(node) for node in computed] == ["Conv2d", "softmax", "ReLU"]
