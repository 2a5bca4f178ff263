"""Infinite currents saturate and NaN stays NaN, in trains as in the packed form, whenever they come."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import sj_parallel_conversion as sjpc
from sj_parallel_conversion.neuron import SpikingNode

INF, NAN = math.inf, math.nan
NODES = {
    "parallel": lambda **options: sjpc.ParallelConversionNode(4, 4.0, **options),
    "spikepack": lambda **options: sjpc.SpikePackNode(4, **options),
    "css": lambda **options: sjpc.TSANode(4, **options),
    "tau": lambda: sjpc.SpikePackNode(4, tau=1.5),
    "spikepack, serial": lambda **options: sjpc.SpikePackNode(4, serial=True, **options),
}
TRAINS = {
    "first": ([INF, 1.0, 1.0, 1.0], INF),
    "later": ([1.0, 1.0, INF, 1.0], INF),
    "all": ([INF] * 4, INF),
    "negative": ([-INF, 1.0, 1.0, 1.0], -INF),
    "negative, later": ([1.0, -INF, 1.0, 1.0], -INF),
    "both": ([INF, 1.0, -INF, 1.0], NAN),
    "NaN first": ([NAN, 1.0, 1.0, 1.0], NAN),
    "NaN last": ([1.0, 1.0, 1.0, NAN], NAN),
}


def assert_as_packed(node: SpikingNode, currents: list[float], mean: float) -> None:
    x_seq = torch.tensor(currents).unsqueeze(1).repeat(1, 2)
    x_seq[:, 1] = 0.3  # a neighbour that nothing happens to
    expected = node.decoded(torch.tensor([mean, 0.3]))
    for emit in (node, node.spikes):
        assert torch.allclose(node.decode(emit(x_seq)), expected, rtol=0, atol=0, equal_nan=True)
    assert node(x_seq).isnan().all(0).tolist() == [math.isnan(mean), False]


@pytest.mark.parametrize("train", TRAINS)
@pytest.mark.parametrize("name", NODES)
@torch.no_grad()
def test_trains_agree_with_the_packed_form(name: str, train: str) -> None:
    currents, mean = TRAINS[train]
    assert_as_packed(NODES[name](), currents, mean)
    if name != "tau":
        assert_as_packed(NODES[name](signed=True), currents, mean)
        assert_as_packed(NODES[name](shift=torch.tensor([0.1, -0.1]), channel_dim=0), currents, mean)


@pytest.mark.parametrize("signed", [False, True])
@torch.no_grad()
def test_serial_tsa(signed: bool) -> None:
    node = sjpc.TSANode(4, serial=True, signed=signed)
    top = node.decoded(torch.tensor(INF))
    assert node.decode(node(torch.tensor([INF, 1.0, 1.0, 1.0]))) == top
    assert node(torch.tensor([1.0, 1.0, INF, 1.0]))[1:].eq(1).all(), "it fires from the step on at which it knows"
    assert node(torch.tensor([INF, 1.0, -INF, 1.0])).isnan().all()
    assert node(torch.tensor([1.0, 1.0, 1.0, NAN])).isnan().all()


@torch.no_grad()
def test_activations_of_a_node() -> None:
    node = sjpc.TSANode(4, signed=True, activation=nn.Hardswish())
    assert_as_packed(node, [1.0, INF, 1.0, 1.0], INF)
    assert_as_packed(node, [INF, 1.0, 1.0, 1.0], INF)


def test_finite_trains_have_finite_gradients_beside_infinite_ones() -> None:
    x_seq = torch.tensor([[INF, 0.3], [1.0, 0.2], [0.0, 0.1], [2.0, 0.2]], requires_grad=True)
    node = sjpc.SpikePackNode(4, 0.1)
    node.decode(node(x_seq)).sum().backward()
    assert x_seq.grad[:, 0].eq(0).all()
    torch.testing.assert_close(x_seq.grad[:, 1], torch.full((4,), 0.25))


@pytest.mark.parametrize("mode", ["parallel", "spikepack", "css"])
@torch.no_grad()
def test_networks(mode: str) -> None:
    torch.manual_seed(0)
    ann, x = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)), torch.randn(16, 3)
    snn = sjpc.ParallelConverter([x], mode=mode, time_steps=4, show_progress=False).convert(ann)
    bad = x.clone()
    bad[0], bad[1] = NAN, INF
    snn.execution = "packed"
    expected = snn.predict(bad)
    assert expected[0].isnan().all() and expected[2:].isfinite().all()
    snn.execution = "spikes"
    assert torch.allclose(snn.predict(bad), expected, rtol=0, atol=0, equal_nan=True)
    for _ in range(4):
        assert snn(bad)[0].isnan().all(), "a NaN is no change of the input"
    snn.step_mode = "m"
    changing = x.repeat(4, 1, 1)
    changing[0, 1] = INF  # infinite at the first step alone
    for execution in ("spikes", "packed"):
        snn.execution = execution
        y = snn.decode(snn(changing))
        torch.testing.assert_close(y[1], expected[1], equal_nan=True)
        torch.testing.assert_close(y[2:], expected[2:])
