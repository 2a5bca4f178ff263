"""Subclasses of torch's layers compute what they compute, and those that are leaves stay whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from nets import IMAGES
from odd_layers import EXACT, KINDS, Doubled, SquaredReLU, StandardisedConv, assert_near, convert, net
from torch import Tensor, nn

import sj_parallel_conversion as sjpc


@pytest.mark.parametrize("calibration", ["none", "least_squares", "weights"])
@pytest.mark.parametrize("kind", KINDS)
def test_subclasses_compute_what_they_compute(kind: str, calibration: str) -> None:
    ann = net(kind)
    snn = convert(ann, calibration=calibration)
    assert_near(snn, ann)
    assert not sjpc.inspect(snn, show=False).analogue


@pytest.fixture
def leaves() -> Iterator[None]:
    kinds = [SquaredReLU, StandardisedConv, Doubled]
    for kind in kinds:
        sjpc.register_leaf(kind)
    yield
    for kind in kinds:
        sjpc.unregister_leaf(kind)


@pytest.mark.parametrize("calibration", ["none", "least_squares", "weights"])
@pytest.mark.parametrize("kind", ["standardised convolution", "doubled norm"])
@pytest.mark.usefixtures("leaves")
def test_a_subclass_that_is_a_leaf_stays_whole(kind: str, calibration: str) -> None:
    ann = net(kind)
    snn = convert(ann, calibration=calibration)
    assert_near(snn, ann)
    (leaf,) = (m for m in snn.net.modules() if isinstance(m, (StandardisedConv, Doubled)))
    for name, value in ann[1][0].state_dict().items():
        assert torch.equal(leaf.state_dict()[name], value), "nothing is folded into it"
    assert "1.0" in {row.name for row in sjpc.inspect(snn, show=False).analogue}


@pytest.mark.usefixtures("leaves")
def test_an_activation_that_is_a_leaf_is_no_neuron() -> None:
    with pytest.raises(sjpc.ConversionError, match="no activation"):
        convert(net("squared ReLU"))


class Speech(nn.Module):
    """A leaf between the input and the first neuron, or behind one."""

    def __init__(self, first: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = first
        self.lstm, self.a, self.b = nn.LSTM(8, 8, 2, batch_first=True), nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.lstm(x)[0] if self.first else x
        x = torch.relu(self.a(x))
        x = x if self.first else self.lstm(x)[0]
        return self.b(x[:, -1])


@pytest.fixture
def lstm_is_a_leaf() -> Iterator[None]:
    sjpc.register_leaf(nn.LSTM)
    yield
    sjpc.unregister_leaf(nn.LSTM)


@pytest.mark.parametrize("first", [True, False], ids=["at the input", "behind a neuron"])
@pytest.mark.usefixtures("lstm_is_a_leaf")
def test_a_leaf_is_in_the_table_wherever_it_stands(first: bool) -> None:
    ann, x = Speech(first).eval(), torch.randn(6, 5, 8, generator=torch.Generator().manual_seed(0))
    snn = convert(ann, x, calibration="none")
    assert_near(snn, ann, x)
    inspection = sjpc.inspect(snn, show=False)
    (row,) = inspection.analogue
    assert row.name == "lstm" and row.operation == "LSTM"
    assert row.macs == 5 * 2 * 4 * 8 * (8 + 8), "two layers of four gates, at five steps"
    assert inspection.macs > row.macs
    behind = {r.name: r.receives for r in inspection.rows}
    assert "analogue" in behind["a" if first else "b"]
    with pytest.raises(sjpc.ConversionError, match=r"strict=True.*lstm \(LSTM\)"):
        convert(ann, x, strict=True)


@pytest.mark.parametrize("inside", [True, False])
@torch.no_grad()
def test_a_model_that_was_compiled_in_place_is_not_compiled_again(inside: bool) -> None:
    compiled = []

    def backend(graph: torch.fx.GraphModule, example: list[Tensor]) -> Callable:
        compiled.append(graph)
        return graph.forward

    ann = net("residual")
    expected = convert(ann).predict(IMAGES)
    (ann[1] if inside else ann).compile(backend=backend)
    before = ann(IMAGES)
    assert len(compiled) == 1
    snn = convert(ann)
    assert torch.equal(snn.predict(IMAGES), expected) and len(compiled) == 1
    snn = sjpc.ParallelConverter([IMAGES], **EXACT).convert(nn.Sequential(ann, nn.Identity()), submodules=["0"])
    assert torch.equal(snn(IMAGES), expected)
    torch.testing.assert_close(ann(IMAGES), before)
    assert len(compiled) == 1, "the ANN stays compiled"
