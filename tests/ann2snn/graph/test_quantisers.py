"""Quantisers that others have written are recognised by what they compute, and converted to the bit."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from functools import cache

import pytest
import torch
from captured import captured, modules_of
from hypothesis import given, settings
from hypothesis import strategies as st
from quantiser_spellings import OTHERS, QUANTISERS, Quantiser
from torch import Tensor, nn

import sj_parallel_conversion as sjpc
from sj_parallel_conversion.ann2snn.config import MODES
from sj_parallel_conversion.ann2snn.graph.quantisers import RecognisedQCFS, recognise
from sj_parallel_conversion.ann2snn.placement.sites import Site, make_node

X = torch.randn(4, 3, 9, 9, generator=torch.Generator().manual_seed(0))
SPELLINGS = {name: function for name, (function, _) in QUANTISERS.items()}


class Branches(nn.Module):
    """Quantisers behind one convolution each."""

    def __init__(self, functions: dict[str, Callable], levels: int, threshold: float) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(3, 2, 3) for _ in functions)
        self.quantisers = nn.ModuleList(Quantiser(function, levels, threshold) for function in functions.values())

    def forward(self, x: Tensor) -> list[Tensor]:
        return [quantise(conv(x)) for quantise, conv in zip(self.quantisers, self.convs, strict=True)]


def found(functions: dict[str, Callable], levels: int, threshold: float) -> dict[str, nn.Module]:
    """What stands for each function, from one capture."""
    torch.manual_seed(0)
    modules = modules_of(captured(Branches(functions, levels, threshold).eval(), X)[0])
    return {name: modules.get(f"quantisers.{i}") for i, name in enumerate(functions)}


@cache
def found_once(levels: int) -> dict[str, nn.Module]:
    return found(SPELLINGS, levels, 0.7)


def assert_same(name: str, module: nn.Module, mode: str, T: int, threshold: float) -> None:
    """A neuron in the place of the quantiser gives its values to the bit, on both sides of the edges of its steps."""
    levels = MODES[mode].code.max_level(T)
    edges = (torch.arange(-4, 4 * levels + 5) / 4 / levels * threshold).unsqueeze(0)
    around = [edges, edges.nextafter(torch.tensor(1e9)), edges.nextafter(torch.tensor(-1e9))]
    x = torch.cat([*around, torch.randn(1, 500) * threshold], 1)
    node = make_node(Site(name, module, None), MODES[mode], T, torch.ones(()))
    assert torch.equal(node.decoded(x), SPELLINGS[name](x, levels, torch.tensor([threshold])))


CODES = [("parallel", 1), ("parallel", 6), ("spikepack", 3), ("css", 5)]


@pytest.mark.parametrize("name", QUANTISERS)
@pytest.mark.parametrize(("mode", "T"), CODES)
def test_every_spelling(name: str, mode: str, T: int) -> None:
    levels = MODES[mode].code.max_level(T)
    module = found_once(levels)[name]
    assert isinstance(module, RecognisedQCFS) and module.levels == levels
    assert module.v_threshold.item() == pytest.approx(0.7, rel=1e-6)
    assert module.psi.item() == pytest.approx(QUANTISERS[name][1] * 0.7, abs=1e-4)
    assert_same(name, module, mode, T, 0.7)


@pytest.mark.parametrize("name", sorted(QUANTISERS.keys() - {"fake quantisation", "step size"}))
@settings(max_examples=8)
@given(code=st.sampled_from(CODES), threshold=st.floats(1 / 64, 100, width=32))
def test_any_threshold(name: str, code: tuple[str, int], threshold: float) -> None:
    mode, T = code
    formula = copy.deepcopy(found_once(MODES[mode].code.max_level(T))[name].formula)
    formula.body.threshold.data.fill_(threshold)
    module = recognise(formula, largest=1.0)
    assert isinstance(module, RecognisedQCFS)
    assert_same(name, module, mode, T, threshold)


@pytest.mark.parametrize(("levels", "threshold"), [(3, 0.3), (4, 1.0), (255, 7.7)])
def test_what_is_no_quantiser(levels: int, threshold: float) -> None:
    modules = found(OTHERS, levels, threshold)
    assert not any(isinstance(module, RecognisedQCFS) for module in modules.values()), modules


def network(function: Callable, levels: int, threshold: float, grid: bool) -> nn.Sequential:
    """``grid``: weights on a grid, of which float32 sums are exact."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3), Quantiser(function, levels, threshold), nn.Conv2d(4, 4, 3)]
    ann = nn.Sequential(*layers, Quantiser(function, levels, threshold), nn.Flatten(), nn.Linear(100, 5)).eval()
    for parameter in ann.parameters():
        if grid and parameter.numel() > 1:
            parameter.data = (parameter.data * 16).round() / 16
    return ann


@pytest.mark.parametrize("name", QUANTISERS)
@torch.no_grad()
def test_networks_are_equal_to_the_bit_in_every_execution(name: str) -> None:
    ann, x = network(SPELLINGS[name], 4, 1.0, grid=True), (X * 8).round() / 8
    snn = sjpc.ParallelConverter([x], time_steps=4, show_progress=False).convert(ann)
    assert [site.node.formula is not None for site in snn.neurons()] == [True, True]
    for snn.execution in ("spikes", "packed", "stepwise"):
        assert torch.equal(snn.predict(x), ann(x))
    for twin in (copy.deepcopy(snn), pickle.loads(pickle.dumps(snn))):
        assert torch.equal(twin.predict(x), ann(x))


@pytest.mark.parametrize("mode", ["spikepack", "css"])
@pytest.mark.parametrize("name", ["clip, floor, shift", "floor without shift", "fake quantisation"])
@torch.no_grad()
def test_weighted_codes(name: str, mode: str) -> None:
    """Sums over steps are rounded, so that only values on the edge of a step might differ; there are none."""
    ann, x = network(SPELLINGS[name], 7, 0.9, grid=False), X
    snn = sjpc.ParallelConverter([x], mode=mode, time_steps=3, show_progress=False).convert(ann)
    for snn.execution in ("spikes", "packed"):
        assert torch.equal(snn.predict(x), ann(x))
    for snn.execution in ("stepwise", "serial"):
        torch.testing.assert_close(snn.predict(x), ann(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("calibration", ["none", "least_squares"])
@torch.no_grad()
def test_other_numbers_of_steps(calibration: str) -> None:
    ann = network(SPELLINGS["clip, floor, shift"], 4, 1.0, grid=False)
    options = {"calibration": calibration, "show_progress": False}
    snn = sjpc.ParallelConverter([X], time_steps=8, **options).convert(ann)
    assert all(site.node.formula is None and site.node.v_threshold.unique() == 1 for site in snn.neurons())
    assert (snn.predict(X) - ann(X)).square().sum() < 0.25 * ann(X).square().sum()


@torch.no_grad()
def test_half_precision_and_double() -> None:
    for dtype in (torch.float64, torch.bfloat16):
        ann = network(SPELLINGS["clip, floor, shift"], 4, 1.0, grid=True).to(dtype)
        modules = modules_of(captured(ann, X.to(dtype))[0])
        assert isinstance(modules["1"], RecognisedQCFS) and modules["1"].levels == 4


def test_the_network_can_be_trained() -> None:
    ann = network(SPELLINGS["clip, floor, shift"], 4, 1.0, grid=False)
    snn = sjpc.ParallelConverter([X], time_steps=4, show_progress=False).convert(ann)
    snn.requires_grad_().predict(X).sum().backward()
    gradients = {name: p.grad for name, p in snn.named_parameters()}
    assert all(gradients[f"net.{i}.weight"].any() for i in (0, 2, 5)) and gradients["net.1.node.v_threshold"] != 0


class ByChannel(nn.Module):
    """A threshold for each channel."""

    def __init__(self) -> None:
        super().__init__()
        self.threshold = nn.Parameter(torch.linspace(0.5, 1, 4).view(4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.round((x / self.threshold).clamp(0, 1) * 4) / 4 * self.threshold


@torch.no_grad()
def test_thresholds_by_channel() -> None:
    """What differs by channel at the ends is part of the synapses, and the rest is a quantiser with one threshold."""
    ann = nn.Sequential(nn.Conv2d(3, 4, 3), ByChannel(), nn.Flatten(), nn.Linear(196, 5)).eval()
    snn = sjpc.ParallelConverter([X], time_steps=4, show_progress=False).convert(ann)
    assert [site.node.formula is not None for site in snn.neurons()] == [True]
    assert torch.equal(snn.predict(X), ann(X))
