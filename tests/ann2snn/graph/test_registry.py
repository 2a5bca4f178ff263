"""Activations and modules that users register."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Iterator

import pytest
import torch
from captured import captured
from nets import IMAGES
from torch import Tensor, nn

import sj_parallel_conversion as sjpc
from sj_parallel_conversion.ann2snn import graph
from sj_parallel_conversion.ann2snn.graph import registry
from sj_parallel_conversion.ann2snn.graph.formula import Formula

OPTIONS = {"mode": "css", "threshold": "max", "calibration": "none", "show_progress": False}


@pytest.fixture(autouse=True)
def clean_registry() -> Iterator[None]:
    """What a test registers is gone after it."""
    tables = (registry.ACTIVATIONS, registry.OWN_FUNCTIONS, registry.LEAVES)
    before = [copy.copy(table) for table in tables]
    yield
    for table, content in zip(tables, before, strict=True):
        table.clear()
        table.extend(content) if isinstance(table, list) else table.update(content)


class Squareplus(nn.Module):
    """An own activation whose code the capture would look into."""

    def __init__(self, b: float = 1.0) -> None:
        super().__init__()
        self.b = nn.Parameter(torch.tensor(b))

    def forward(self, x: Tensor) -> Tensor:
        return (x + (x * x + self.b).sqrt()) / 2


def swish(x: Tensor, beta: float = 1.0) -> Tensor:
    """x sigmoid(beta x), of which the capture would see the formula."""
    return x * torch.sigmoid(beta * x)


_hidden_swish = swish  # another name of the same


class Doubling(nn.Module):
    """Changes the shape."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, x], 1)


class Using(nn.Module):
    """An activation between two convolutions."""

    def __init__(self, function) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv1, self.conv2, self.function = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 3), function

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.function(self.conv1(x)))


class ByName(Using):
    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(_hidden_swish(swish(self.conv1(x), beta=1.5)))


def the_sites(ann: nn.Module) -> list[nn.Module]:
    model, _ = captured(ann.eval(), IMAGES)
    return [model.get_submodule(site.target) for site in graph.activation_sites(model)]


@torch.no_grad()
def assert_converts(ann: nn.Module, layers: int) -> None:
    ann.eval()
    for mode in ("css", "spikepack", "parallel"):
        converter = sjpc.ParallelConverter([IMAGES], **OPTIONS | {"mode": mode}, time_steps=8 if mode == "css" else 12)
        snn = converter.convert(ann)
        assert len(snn.neurons()) == layers
        for network in (snn, pickle.loads(pickle.dumps(snn)), copy.deepcopy(snn)):
            y, expected = network.predict(IMAGES), ann(IMAGES)
            assert (y - expected).square().sum() < (0.1 if mode == "parallel" else 1e-3) * expected.square().sum()


def test_own_module() -> None:
    assert isinstance(the_sites(Using(Squareplus()))[0], Formula)
    sjpc.register_activation(Squareplus, lower=0.0)
    (site,) = the_sites(Using(Squareplus()))
    assert isinstance(site, Squareplus)
    assert_converts(Using(Squareplus()), 1)
    ann = Using(Squareplus())
    snn = sjpc.ParallelConverter([IMAGES], **OPTIONS).convert(ann)
    (own,) = (m for m in snn.modules() if isinstance(m, Squareplus))
    assert own.b is not ann.function.b and not snn.neurons()[0].node.signed


def test_own_function_by_name_with_and_without_underscore() -> None:
    assert not any(isinstance(site, registry.FunctionActivation) for site in the_sites(ByName(None)))
    sjpc.register_activation(swish, lower=-0.3)
    first, second = the_sites(ByName(None))
    assert first.function is swish and first.named == {"beta": 1.5} and second.named == {}
    assert repr(first) == "FunctionActivation(swish)" and graph.bounds(second) == (-0.3, math.inf)
    assert_converts(ByName(None), 2)
    assert swish.__globals__["_hidden_swish"] is swish and swish(torch.zeros(1)) == 0  # nothing is left patched


def test_own_function_as_an_attribute_of_a_module() -> None:
    sjpc.register_activation(swish, lower=-0.3)
    ann = Using(swish)
    assert len(the_sites(ann)) == 1 and ann.function is swish
    assert_converts(ann, 1)


@pytest.mark.parametrize("function", [torch.erf, lambda x: x.erf()])
def test_function_of_torch(function) -> None:
    sjpc.register_activation(torch.erf, lower=-1, upper=1)
    (site,) = the_sites(Using(function))
    assert site.function is torch.erf
    if function is torch.erf:
        assert_converts(Using(function), 1)


def test_arguments_that_are_computed_leave_the_call_analogue() -> None:
    sjpc.register_activation(swish, lower=-0.3)
    ann = nn.Sequential(ComputedBeta(), nn.ReLU())
    model, _ = captured(ann, IMAGES)
    sites = graph.activation_sites(model)
    assert not any(isinstance(model.get_submodule(site.target), registry.FunctionActivation) for site in sites)
    assert torch.equal(model(IMAGES)[0], ann(IMAGES))


class ComputedBeta(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return swish(x, x.mean())


def test_registering_again_changes_the_bounds() -> None:
    sjpc.register_activation(Squareplus)
    assert graph.bounds(Squareplus())[0] < 0
    sjpc.register_activation(Squareplus, lower=0)
    assert graph.bounds(Squareplus()) == (0, float("inf"))
    assert registry.LEAVES.count(Squareplus) == 1


@pytest.mark.parametrize(("function", "limits"), [(torch.erf, {"lower": 0}), (torch.erf, {"lower": -1, "upper": 0.5})])
def test_values_outside_of_the_bounds_are_told(function, limits: dict[str, float]) -> None:
    sjpc.register_activation(function, **limits)
    with pytest.raises(sjpc.ConversionError, match=r"layer '(function|erf|functionactivation)'.*outside of the bounds"):
        sjpc.ParallelConverter([IMAGES], **OPTIONS).convert(Using(function))


def test_a_change_of_shape_is_told() -> None:
    sjpc.register_activation(Doubling)
    ann = nn.Sequential(nn.Conv2d(3, 4, 3), Doubling())
    with pytest.raises(sjpc.ConversionError, match=r"'1' \(Doubling\) turns shape"):
        sjpc.ParallelConverter([IMAGES], **OPTIONS).convert(ann)


def local() -> Iterator[object]:
    def function(x: Tensor) -> Tensor:
        return x

    class Local(nn.Module):
        pass

    yield from (function, Local, lambda x: x)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("gelu",), "subclass of torch.nn.Module or a function"),
        ((Squareplus(),), "subclass of torch.nn.Module or a function"),
        ((int,), "subclass of torch.nn.Module or a function"),
        *(((thing,), "cannot be found by its name") for thing in local()),
        ((nn.Module,), "own subclass"),
        ((nn.Sequential,), "own subclass"),
        ((nn.GELU,), "GELU is known already"),
        ((sjpc.QCFS,), "QCFS is known already"),
        ((swish, "0"), "lower must be a number"),
        ((swish, None), "lower must be a number"),
        ((swish, 0, float("nan")), "upper must be a number"),
        ((swish, 0.5), "lower <= 0 <= upper"),
        ((swish, -2, -1), "lower <= 0 <= upper"),
        ((swish, 0, 0), "lower < upper"),
    ],
)
def test_refused(arguments: tuple, named: str) -> None:
    activation, *limits = arguments
    with pytest.raises(sjpc.ConfigError, match=named):
        sjpc.register_activation(activation, **dict(zip(("lower", "upper"), limits, strict=False)))


def test_what_was_registered_can_be_taken_back() -> None:
    sjpc.register_activation(Squareplus, lower=0.0)
    sjpc.register_activation(swish, lower=-0.3)
    sjpc.register_activation(torch.erf, lower=-1, upper=1)
    sjpc.unregister_activation(Squareplus)
    assert isinstance(the_sites(Using(Squareplus()))[0], Formula) and Squareplus not in registry.LEAVES
    sjpc.unregister_activation(swish)
    assert all(isinstance(site, Formula) for site in the_sites(ByName(None)))
    sjpc.unregister_activation(torch.erf)
    assert registry.OWN_FUNCTIONS == {}


@pytest.mark.parametrize("activation", [Squareplus, swish, torch.erf, nn.ReLU, sjpc.QCFS, "x", None])
def test_what_was_not_registered_cannot_be_taken_back(activation: object) -> None:
    with pytest.raises(sjpc.ConfigError, match=r"unregister_activation: .* is not registered"):
        sjpc.unregister_activation(activation)


@pytest.mark.parametrize("module", ["x", nn.Module, nn.Sequential, swish, Squareplus(), *list(local())[1:2]])
def test_refused_as_a_leaf(module: object) -> None:
    with pytest.raises(sjpc.ConfigError, match="register_leaf"):
        sjpc.register_leaf(module)


def test_leaves_can_be_taken_back() -> None:
    sjpc.register_leaf(Squareplus)
    sjpc.register_leaf(Squareplus)
    sjpc.unregister_leaf(Squareplus)
    for module in (Squareplus, nn.LSTM, nn.GRU, sjpc.QCFS, nn.Linear):
        with pytest.raises(sjpc.ConfigError, match=r"unregister_leaf: .* is not registered"):
            sjpc.unregister_leaf(module)
