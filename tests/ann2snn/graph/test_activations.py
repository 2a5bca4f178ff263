"""Activations are found however they are spelt, and those that no neuron can stand for are all named."""

from __future__ import annotations

import pytest
import torch
from nets import IMAGES, net
from torch import Tensor, nn
from torch.nn import functional as F

import sj_parallel_conversion as sjpc
from sj_parallel_conversion.ann2snn import graph

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
UNSUPPORTED_FUNCTIONS = {
    "sigmoid": torch.sigmoid,
    "tanh": lambda x: x.tanh(),
    "gelu": F.gelu,
    "silu": F.silu,
    "hardswish": F.hardswish,
    "leaky_relu": lambda x: F.leaky_relu(x, 0.1),
    "elu": F.elu,
    "softplus": F.softplus,
    "hardtanh": F.hardtanh,
    "clamp": lambda x: x.clamp(-1, 1),
    "clamp_max": lambda x: x.clamp_max(1),
}
UNSUPPORTED_MODULES = [
    nn.Sigmoid(), nn.Tanh(), nn.GELU(), nn.SiLU(), nn.Hardswish(), nn.LeakyReLU(), nn.ELU(), nn.PReLU(), nn.Softplus(),
    nn.Hardtanh(), nn.Hardsigmoid(), nn.Mish(), nn.SELU(), nn.CELU(), nn.LogSigmoid(), nn.Softsign(), nn.RReLU(),
]  # fmt: skip


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


@pytest.mark.parametrize("name", UNSUPPORTED_FUNCTIONS)
def test_unsupported_functions(name: str) -> None:
    model = plain(nn.Sequential(nn.Sequential(Spelt(UNSUPPORTED_FUNCTIONS[name])), nn.ReLU()))
    with pytest.raises(sjpc.ConversionError, match=rf"0\.0\.{name} \((torch\.)?\w*{name}|Hardtanh\)"):
        graph.activation_sites(model)


@pytest.mark.parametrize("module", UNSUPPORTED_MODULES, ids=lambda module: type(module).__name__)
def test_unsupported_modules(module: nn.Module) -> None:
    model = plain(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Sequential(module)))
    with pytest.raises(sjpc.ConversionError, match=rf"2\.0 \({type(module).__name__}\)"):
        graph.activation_sites(model)


def test_all_unsupported_activations_are_listed_at_once() -> None:
    model = nn.Sequential()
    model.add_module("stem", Spelt(F.gelu))
    model.add_module("gate", nn.Sigmoid())
    model.add_module("tail", nn.Sequential(nn.ReLU(), nn.SiLU()))
    with pytest.raises(sjpc.ConversionError) as error:
        graph.activation_sites(plain(model))
    for what in ("stem.gelu (gelu)", "gate (Sigmoid)", "tail.1 (SiLU)", "QCFS"):
        assert what in str(error.value)
    assert "tail.0" not in str(error.value)


@pytest.mark.parametrize(
    "model",
    [nn.Linear(3, 4), nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2)), nn.Identity(), nn.Sequential(nn.Softmax(1))],
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
