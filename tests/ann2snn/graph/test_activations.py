"""Activations are found however they are spelt; what is none stays in the graph."""

from __future__ import annotations

import math

import pytest
import torch
from nets import IMAGES, net
from torch import Tensor, nn
from torch.nn import functional as F

import sj_parallel_conversion as sjpc
from sj_parallel_conversion.ann2snn import graph
from sj_parallel_conversion.ann2snn.graph import registry

RELUS = {
    "F.relu": F.relu,
    "F.relu(input=)": lambda x: F.relu(input=x),
    "F.relu(inplace)": lambda x: F.relu(x, inplace=True),
    "F.relu(input=, inplace)": lambda x: F.relu(input=x, inplace=True),
    "F.relu_": F.relu_,
    "torch.relu": torch.relu,
    "torch.relu_": torch.relu_,
    "x.relu": lambda x: x.relu(),
    "x.relu_": lambda x: x.relu_(),
    "x.clamp(min=0)": lambda x: x.clamp(min=0),
    "x.clamp(0)": lambda x: x.clamp(0),
    "x.clamp(min=0.0)": lambda x: x.clamp(min=0.0),
    "x.clamp_(min=0)": lambda x: x.clamp_(min=0),
    "x.clip(min=0)": lambda x: x.clip(min=0),
    "x.clamp_min(0)": lambda x: x.clamp_min(0),
    "x.clamp_min_(0)": lambda x: x.clamp_min_(0),
    "torch.clamp(x, min=0)": lambda x: torch.clamp(x, min=0),
    "torch.clip(x, min=0)": lambda x: torch.clip(x, min=0),
    "torch.clamp_min(x, 0)": lambda x: torch.clamp_min(x, 0),
}
BOUNDED = {
    "F.relu6": F.relu6,
    "F.hardtanh(x, 0, 6)": lambda x: F.hardtanh(x, 0, 6),
    "F.hardtanh(input=x)": lambda x: F.hardtanh(input=x, min_val=0.0, max_val=2.0),
    "x.clamp(0, 6)": lambda x: x.clamp(0, 6),
    "torch.clamp(x, 0, 6)": lambda x: torch.clamp(x, 0, 6),
    "torch.clamp(input=x)": lambda x: torch.clamp(input=x, min=0, max=1),
}
OTHERS = {
    "F.sigmoid": (nn.Sigmoid(), F.sigmoid),
    "torch.sigmoid": (nn.Sigmoid(), torch.sigmoid),
    "torch.sigmoid_": (nn.Sigmoid(), torch.sigmoid_),
    "torch.special.expit": (nn.Sigmoid(), torch.special.expit),
    "x.sigmoid": (nn.Sigmoid(), lambda x: x.sigmoid()),
    "x.sigmoid_": (nn.Sigmoid(), lambda x: x.sigmoid_()),
    "F.hardsigmoid": (nn.Hardsigmoid(), F.hardsigmoid),
    "F.hardsigmoid(inplace)": (nn.Hardsigmoid(), lambda x: F.hardsigmoid(x, inplace=True)),
    "F.tanh": (nn.Tanh(), F.tanh),
    "torch.tanh": (nn.Tanh(), torch.tanh),
    "x.tanh": (nn.Tanh(), lambda x: x.tanh()),
    "x.tanh_": (nn.Tanh(), lambda x: x.tanh_()),
    "F.gelu": (nn.GELU(), F.gelu),
    "F.gelu(tanh)": (nn.GELU("tanh"), lambda x: F.gelu(x, approximate="tanh")),
    "F.silu": (nn.SiLU(), F.silu),
    "F.silu(input=, inplace)": (nn.SiLU(), lambda x: F.silu(input=x, inplace=True)),
    "F.mish": (nn.Mish(), F.mish),
    "F.hardswish": (nn.Hardswish(), F.hardswish),
    "F.softplus": (nn.Softplus(), F.softplus),
    "F.softplus(2, 5)": (nn.Softplus(2, 5), lambda x: F.softplus(x, 2, threshold=5)),
    "F.softsign": (nn.Softsign(), F.softsign),
    "F.elu": (nn.ELU(), F.elu),
    "F.elu(0.5)": (nn.ELU(0.5), lambda x: F.elu(x, alpha=0.5)),
    "F.elu_": (nn.ELU(), F.elu_),
    "F.celu": (nn.CELU(0.7), lambda x: F.celu(x, 0.7)),
    "torch.celu": (nn.CELU(), torch.celu),
    "F.selu": (nn.SELU(), F.selu),
    "torch.selu": (nn.SELU(), torch.selu),
    "torch.selu_": (nn.SELU(), torch.selu_),
    "F.leaky_relu": (nn.LeakyReLU(0.1), lambda x: F.leaky_relu(x, 0.1)),
    "F.leaky_relu(input=)": (nn.LeakyReLU(), lambda x: F.leaky_relu(input=x, inplace=True)),
    "F.leaky_relu_": (nn.LeakyReLU(0.3), lambda x: F.leaky_relu_(x, 0.3)),
    "F.rrelu": (nn.RReLU(), F.rrelu),
    "torch.rrelu": (nn.RReLU(0.1, 0.2), lambda x: torch.rrelu(x, 0.1, 0.2)),
    "F.logsigmoid": (nn.LogSigmoid(), F.logsigmoid),
    "F.hardshrink": (nn.Hardshrink(0.2), lambda x: F.hardshrink(x, 0.2)),
    "x.hardshrink": (nn.Hardshrink(), lambda x: x.hardshrink()),
    "F.softshrink": (nn.Softshrink(0.2), lambda x: F.softshrink(x, lambd=0.2)),
    "F.tanhshrink": (nn.Tanhshrink(), F.tanhshrink),
    "F.threshold": (nn.Threshold(0.1, -0.2), lambda x: F.threshold(x, 0.1, -0.2)),
    "torch.threshold": (nn.Threshold(0.1, 0), lambda x: torch.threshold(x, 0.1, 0)),
    "F.hardtanh": (nn.Hardtanh(), F.hardtanh),
    "F.hardtanh_": (nn.Hardtanh(-2, 0.5), lambda x: F.hardtanh_(x, -2, 0.5)),
    "x.clamp(-1, 2)": (nn.Hardtanh(-1, 2), lambda x: x.clamp(-1, 2)),
    "x.clamp(max=1)": (nn.Hardtanh(-float("inf"), 1), lambda x: x.clamp(max=1)),
    "x.clamp_max": (nn.Hardtanh(-float("inf"), 1), lambda x: x.clamp_max(1)),
    "torch.clamp_max": (nn.Hardtanh(-float("inf"), 0.5), lambda x: torch.clamp_max(x, max=0.5)),
    "torch.clamp_min": (nn.Hardtanh(-0.5, float("inf")), lambda x: torch.clamp_min(x, -0.5)),
}
ANALOGUE = {
    "a guard of a divisor": lambda x: x / x.norm().clamp(min=1e-6),
    "clamp above 0": lambda x: x.clamp(0.5, 2),
    "clamp below 0": lambda x: x.clamp(max=-0.5),
    "an empty range": lambda x: x.clamp(0, 0),
    "bounds that are tensors": lambda x: x.clamp(x.mean() - x.mean(), x.amax()),
    "a slope that is computed": lambda x: torch.prelu(x, x.mean().view(1)),
    "threshold": lambda x: F.threshold(x, 0.5, 3.0),
    "softmax": lambda x: x.softmax(1),
    "glu": lambda x: F.glu(x, 1),
    "step": lambda x: x * (x > 0),
    "square": lambda x: x**2,
}


class Spelt(nn.Module):
    """An activation, as a function, inside a submodule."""

    def __init__(self, function) -> None:
        super().__init__()
        self.conv, self.function = nn.Conv2d(3, 4, 3), function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.conv(x))


def plain(model: nn.Module) -> torch.fx.GraphModule:
    traced = graph.trace(model)
    graph.remove_inplace(traced)
    graph.standardise_activations(traced)
    return traced


@pytest.mark.parametrize(("spelling", "kind"), [*((s, nn.ReLU) for s in RELUS), *((s, nn.Hardtanh) for s in BOUNDED)])
@torch.no_grad()
def test_spellings(spelling: str, kind: type[nn.Module]) -> None:
    ann = Spelt((RELUS | BOUNDED)[spelling]).eval()
    model = plain(ann)
    (site,) = graph.activation_sites(model)
    assert isinstance(model.get_submodule(site.target), kind)
    assert torch.equal(model(IMAGES), ann(IMAGES))


@pytest.mark.parametrize(
    "module",
    [nn.ReLU(), nn.ReLU(inplace=True), nn.ReLU6(), nn.Hardtanh(0, 4), sjpc.QCFS(4), sjpc.DAQCFS(4), sjpc.ClipReLU(2.0)],
)
def test_modules(module: nn.Module) -> None:
    (site,) = graph.activation_sites(plain(nn.Sequential(nn.Conv2d(3, 4, 3), module)))
    assert site.target == "1"


class Subclass(nn.ReLU):
    """A user's own ReLU class: fx looks inside it."""


def test_subclass_of_relu() -> None:
    (site,) = graph.activation_sites(plain(nn.Sequential(nn.Conv2d(3, 4, 3), Subclass())))
    assert site.target.startswith("1")


def test_sites_are_named_after_where_they_are_called() -> None:
    model = nn.Sequential()
    model.add_module("stem", Spelt(F.relu))
    model.add_module("body", nn.Sequential(Spelt_(torch.relu), Spelt_(lambda x: x.relu().relu())))
    names = [site.target for site in graph.activation_sites(plain(model))]
    assert names == ["stem.relu", "body.0.relu", "body.1.relu", "body.1.relu_1"]


class Spelt_(Spelt):
    """The same on four channels."""

    def __init__(self, function) -> None:
        super().__init__(function)
        self.conv = nn.Conv2d(4, 4, 3)


def test_each_call_of_a_shared_module_is_a_site() -> None:
    ann, _ = net("shared relu")
    model = plain(ann)
    graph.one_module_per_call(model)
    sites = [site.target for site in graph.activation_sites(model)]
    assert len(sites) == len(set(sites)) == 3


def the_site(model: torch.fx.GraphModule) -> nn.Module:
    (site,) = graph.activation_sites(model)
    return model.get_submodule(site.target)


@pytest.mark.parametrize("spelling", OTHERS)
@torch.no_grad()
def test_other_activations_as_functions_and_methods(spelling: str) -> None:
    expected, function = OTHERS[spelling]
    ann = Spelt(function).eval()
    model = plain(ann)
    module = the_site(model)
    assert type(module) is type(expected) and repr(module) == repr(expected)
    assert torch.equal(model(IMAGES), ann(IMAGES))


@pytest.mark.parametrize("row", registry.ROWS, ids=lambda row: row.module.__name__)
@torch.no_grad()
def test_every_row_as_a_module_and_its_bounds(row: registry.Activation) -> None:
    arguments = {nn.Threshold: (0.0, 0.0), sjpc.QCFS: (4,), sjpc.DAQCFS: (4,)}.get(row.module, ())
    module = row.module(*arguments).eval()
    assert the_site(plain(nn.Sequential(nn.Conv2d(3, 4, 3), module))) is not None
    lower, upper = registry.bounds(module)
    y = module(torch.linspace(-200, 200, 400_001).view(-1, 1))
    assert y.min() >= lower and y.max() <= upper
    assert registry.is_rectifier(module) == (row.module in (nn.ReLU, nn.ReLU6, sjpc.ClipReLU))
    if -math.inf < lower < 0:
        assert y.min() <= 0.99 * lower  # a bound is not further off than it has to be


class WithPReLU(nn.Module):
    """PReLU as a function with a parameter of the model."""

    def __init__(self, method: bool) -> None:
        super().__init__()
        self.conv, self.slope, self.method = nn.Conv2d(3, 4, 3), nn.Parameter(torch.tensor([0.1, -0.3, 0.5, 2])), method

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).prelu(self.slope) if self.method else F.prelu(self.conv(x), weight=self.slope)


@pytest.mark.parametrize("method", [True, False])
@torch.no_grad()
def test_prelu_with_a_parameter_of_the_model(method: bool) -> None:
    ann = WithPReLU(method)
    model = plain(ann)
    assert isinstance(the_site(model), nn.PReLU)
    assert torch.equal(model(IMAGES), ann(IMAGES))


@pytest.mark.parametrize("name", ANALOGUE)
@torch.no_grad()
def test_what_is_no_activation_stays(name: str) -> None:
    model = nn.Sequential(Spelt(ANALOGUE[name]), nn.ReLU()).eval()
    traced = plain(model)
    (site,) = graph.activation_sites(traced)
    assert site.target == "1"
    assert torch.equal(traced(IMAGES), model(IMAGES))


class ConstantBranch(nn.Module):
    """An activation of a table that is the same for every input, as in Swin's position bias."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.randn(4, 2))
        self.bias, self.conv = nn.Sequential(nn.Linear(2, 3), nn.GELU(), nn.Linear(3, 1)), nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv(x) + self.bias(self.table).view(4, 1, 1))


def test_activations_of_constants_are_no_sites() -> None:
    (site,) = graph.activation_sites(plain(ConstantBranch()))
    assert site.target == "relu"


@pytest.mark.parametrize(
    "model",
    [
        nn.Linear(3, 4), nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2)), nn.Identity(),
        nn.Sequential(nn.Softmax(1)), nn.Sequential(nn.Linear(3, 4), nn.Hardtanh(0.5, 2)),
    ],
)
def test_nothing_to_convert(model: nn.Module) -> None:
    with pytest.raises(sjpc.ConversionError, match="nothing to convert"):
        graph.activation_sites(plain(model))


@pytest.mark.parametrize("opaque", [nn.TransformerEncoderLayer(8, 2), nn.GRU(8, 8)])
def test_modules_that_hide_activations_are_refused(opaque: nn.Module) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.hidden, self.relu = opaque, nn.ReLU()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.relu(self.hidden(x))

    model = graph.trace(Model())
    with pytest.raises(sjpc.ConversionError, match=f"hidden.*{type(opaque).__name__}"):
        graph.activation_sites(model)
