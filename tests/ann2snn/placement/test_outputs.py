"""Activations that are outputs of a network: their known bounds are their range, or they have no neuron."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from captured import captured
from torch import Tensor, nn

import sj_parallel_conversion as sjpc
from sj_parallel_conversion.ann2snn import graph
from sj_parallel_conversion.ann2snn.placement.sites import find_sites

X = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
CALIBRATIONS = ["none", "da_qcfs", "least_squares", "weights"]


class Head(nn.Module):
    """Two layers, an activation, and what follows it."""

    def __init__(self, activation: nn.Module | None = None, then: Callable[[Tensor], object] = lambda y: y) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.relu, self.last = nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 4)
        self.activation, self.then = activation or nn.Sigmoid(), then

    def forward(self, x: Tensor) -> object:
        return self.then(self.activation(self.last(self.relu(self.first(x)))))


def convert(ann: nn.Module, **options: object) -> sjpc.SpikingNetwork:
    options = {"mode": "css", "show_progress": False} | options
    return sjpc.ParallelConverter(list(X.split(16)), **options).convert(ann.eval())


def nodes(snn: sjpc.SpikingNetwork) -> dict[str, sjpc.SpikingNode]:
    return {name: site.node for name, site in snn.net.named_modules() if hasattr(site, "node")}


@pytest.mark.parametrize("threshold", ["mse", "max", "99.9%"])
@pytest.mark.parametrize("calibration", CALIBRATIONS)
@torch.no_grad()
def test_scores_reach_one_whatever_the_calibration_data_show(threshold: str, calibration: str) -> None:
    ann = nn.Sequential(nn.Linear(6, 4), nn.Sigmoid()).eval()
    ann[0].bias.fill_(-2.0)
    assert ann(X).max() < 0.7
    for options in ({}, {"per_channel": False}, {"mode": "parallel"}, {"filled_levels": 0.5}):
        snn = convert(ann, threshold=threshold, calibration=calibration, **options)
        scores = snn.predict(X * 50)
        assert (scores - ann(X * 50)).abs().max() < (0.2 if options.get("mode") == "parallel" else 0.05)
        assert scores.max() == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize(
    ("activation", "reach"),
    [(nn.Sigmoid(), 1), (nn.Tanh(), 1), (nn.Hardsigmoid(), 1), (nn.Hardtanh(-1, 2), 2), (nn.ReLU6(), 6), (nn.ELU(), 0)],
)
@torch.no_grad()
def test_the_range_is_that_of_the_bounds(activation: nn.Module, reach: int) -> None:
    snn = convert(Head(activation), calibration="least_squares")
    node = nodes(snn)["activation"]
    ranges = node.unit * node.code.max_level(node.T)
    if reach:
        torch.testing.assert_close(ranges, torch.full((4,), float(reach)))
    else:
        assert len(ranges.unique()) == 4


WAYS: dict[str, Callable[[Tensor], object]] = {
    "itself": lambda y: y,
    "reshape": lambda y: y.reshape(-1, 2, 2).flatten(1),
    "slices": lambda y: (y[:, :1], y[:, 1:].unsqueeze(-1)),
    "cat": lambda y: torch.cat([y, y], 1),
    "chunks": lambda y: list(y.chunk(2, 1)),
    "dictionary": lambda y: {"scores": y.transpose(0, 1)},
    "double": lambda y: y.double(),
}
READ: dict[str, Callable[[Tensor], object]] = {
    "product": lambda y: 2 * y * y.sum(1, keepdim=True),
    "sum": lambda y: y.sum(1),
    "softmax": lambda y: y.softmax(1),
}
BOTH: dict[str, Callable[[Tensor], object]] = {"both": lambda y: (y, y.softmax(1))}


@pytest.mark.parametrize("way", [*WAYS, *READ, *BOTH])
def test_what_is_an_output(way: str) -> None:
    model, _ = captured(Head(then=(WAYS | READ | BOTH)[way]).eval(), X)
    _, site = find_sites(model)
    assert site.is_output == (way not in READ) and (site.known_range == 1) == (way not in READ)
    assert [s.name for s in find_sites(model, output_neurons=False)] == ["relu", "activation"][: 1 + (way not in WAYS)]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("fold", [True, False])
@torch.no_grad()
def test_outputs_without_neurons_are_the_anns_function(way: str, fold: bool) -> None:
    ann = Head(then=WAYS[way]).eval()
    snn = convert(ann, output_neurons=False, fold=fold, time_steps=12)
    assert list(nodes(snn)) == ["relu"]
    for execution in ("spikes", "packed", "stepwise"):
        snn.execution = execution
        torch.testing.assert_close(snn.predict(X), ann(X), rtol=0.01, atol=0.01)
    report = sjpc.inspect(snn, show=False)
    assert [row.name for row in report.analogue if row.operation == "Sigmoid"] == ["activation"]


def test_the_closing_line_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    convert(Head(), output_neurons=False, show_progress=True)
    line = capsys.readouterr().out
    assert "activation (Sigmoid) stays analogue, as output_neurons=False asks." in line
    assert "register_activation" not in line


def test_nothing_else_to_convert() -> None:
    with pytest.raises(sjpc.ConversionError, match="output_neurons=False"):
        convert(nn.Sequential(nn.Linear(6, 2), nn.Sigmoid()), output_neurons=False)


def test_bounds_of_hidden_activations_are_no_range() -> None:
    model, _ = captured(nn.Sequential(nn.Linear(6, 4), nn.Sigmoid(), nn.Linear(4, 2)).eval(), X)
    (site,) = find_sites(model)
    assert site.known_range is None and math.isfinite(graph.bounds(site.activation)[1])
