"""Activations are found however they are spelt; what is none stays in the graph."""

from __future__ import annotations

import math
from functools import cache

import pytest
import torch
from activation_spellings import COMPOSED, ENDS, KNOWN, NO_ACTIVATION, RELUS, Spelt
from captured import captured, captured_net, modules_of, outputs_of
from nets import IMAGES
from torch import Tensor, nn
from torch.nn import functional as F

import sj_parallel_conversion as sjpc
from sj_parallel_conversion.ann2snn import graph
from sj_parallel_conversion.ann2snn.graph import registry
from sj_parallel_conversion.ann2snn.graph.formula import Formula
from sj_parallel_conversion.neuron.activations import SpikingShare

KINDS = {
    "relus": RELUS,
    "known": {name: function for name, (_, function) in KNOWN.items()},
    "composed": {name: function for name, (_, function) in COMPOSED.items()},
    "ends": {name: function for name, (_, function) in ENDS.items()},
    "none": NO_ACTIVATION,
}


class Found:
    """All spellings of one kind, in one graph."""

    def __init__(self, kind: str) -> None:
        torch.manual_seed(0)
        ann = Spelt(KINDS[kind] | {"so that there is a site": lambda m, x: F.relu(x)}).eval()
        self.model, _ = captured(ann, IMAGES)
        with torch.no_grad():
            self.expected, self.values = ann(IMAGES.clone()), self.model(IMAGES.clone())
        self.index = {name: i for i, name in enumerate(self.expected)}
        self.sites = set(graph.activation_sites(self.model))

    def is_exact(self, name: str) -> bool:
        return torch.equal(self.values[self.index[name]], self.expected[name])

    def of(self, name: str) -> list[nn.Module]:
        """The activations between the convolution and the result."""
        stack, found = [outputs_of(self.model)[self.index[name]]], {}
        while stack:
            node = stack.pop()
            found |= {node: self.model.get_submodule(node.target)} if node in self.sites else {}
            stack += node.all_input_nodes
        return list(found.values())


found = cache(Found)


@pytest.mark.parametrize("name", RELUS)
def test_spellings_of_relu(name: str) -> None:
    (module,) = found("relus").of(name)
    assert type(module) is nn.ReLU and not module.inplace
    assert found("relus").is_exact(name)


@pytest.mark.parametrize("name", KNOWN)
def test_operators_that_torch_has_a_module_for(name: str) -> None:
    (module,), expected = found("known").of(name), KNOWN[name][0]
    assert type(module) is type(expected) and numbers(module) == pytest.approx(numbers(expected))
    assert found("known").is_exact(name)


def numbers(module: nn.Module) -> dict[str, float]:
    """The settings of an activation."""
    return {key: float(value) for key, value in vars(module).items() if type(value) in (int, float)}


@pytest.mark.parametrize("name", COMPOSED)
def test_composed_activations_and_their_bounds(name: str) -> None:
    (module,) = found("composed").of(name)
    assert isinstance(module, Formula) and found("composed").is_exact(name)
    assert registry.bounds(module) == pytest.approx(COMPOSED[name][0], rel=2e-3, abs=1e-3)


@pytest.mark.parametrize("name", ENDS)
def test_affine_operations_at_the_ends_are_synapses(name: str) -> None:
    (module,) = found("ends").of(name)
    assert type(module) is ENDS[name][0] and found("ends").is_exact(name)


@pytest.mark.parametrize("name", NO_ACTIVATION)
def test_what_is_no_activation_stays(name: str) -> None:
    assert found("none").of(name) == []
    assert found("none").is_exact(name)


def test_what_is_random_is_no_activation() -> None:
    class Noisy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.relu(x) + 0 * torch.rand_like(x)

    model, _ = captured(nn.Sequential(nn.Conv2d(3, 4, 3), Noisy()), IMAGES)
    assert [type(module) for module in modules_of(model).values()] == [nn.Conv2d, nn.ReLU]


@pytest.mark.parametrize(
    "module",
    [nn.ReLU(), nn.ReLU(inplace=True), nn.ReLU6(), nn.Hardtanh(0, 4), sjpc.QCFS(4), sjpc.DAQCFS(4), sjpc.ClipReLU(2.0)],
)
def test_modules(module: nn.Module) -> None:
    model, _ = captured(nn.Sequential(nn.Conv2d(3, 4, 3), module), IMAGES)
    (site,) = graph.activation_sites(model)
    assert site.target == "1" and type(model.get_submodule("1")) is type(module)


OF_ONE_CLASS = [row for row in registry.ROWS if row.module is not Formula]


@pytest.mark.parametrize("row", OF_ONE_CLASS, ids=lambda row: row.module.__name__)
@torch.no_grad()
def test_every_row_and_its_bounds(row: registry.Activation) -> None:
    arguments = {nn.Threshold: (-0.5, 0.25), sjpc.QCFS: (4,), sjpc.DAQCFS: (4,)}.get(row.module, ())
    module = row.module(*arguments).eval()
    lower, upper = registry.bounds(module)
    # shares are within these bounds before their neuron
    ends = (0.0, 1.0) if row.module is SpikingShare else (-200.0, 200.0)
    y = module(torch.linspace(*ends, 400_001).view(-1, 1))
    assert y.min() >= lower and y.max() <= upper
    assert registry.is_rectifier(module) == (row.module in (nn.ReLU, nn.ReLU6, sjpc.ClipReLU))
    if -math.inf < lower < 0:
        assert y.min() <= 0.99 * lower  # a bound is not further off than it has to be


class Block(nn.Module):
    """An activation as a function, in a module with a layer."""

    def __init__(self, function: object, channels: int = 4) -> None:
        super().__init__()
        self.conv, self.function = nn.Conv2d(channels, 4, 3), function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.conv(x))


class OwnReLU(nn.ReLU):
    """A user's own subclass."""


def test_sites_are_named_after_where_they_are_called() -> None:
    model = nn.Sequential()
    model.add_module("stem", Block(F.relu, 3))
    model.add_module("body", nn.Sequential(Block(torch.relu), Block(lambda x: F.silu(x) + F.relu(x).flip(1))))
    model.add_module("own", OwnReLU())
    model.add_module("swish", Block(lambda x: x * x.sigmoid()))
    names = [site.target for site in graph.activation_sites(captured(model, IMAGES)[0])]
    assert names == ["stem.relu", "body.0.relu", "body.1.silu", "body.1.relu", "own", "swish.activation"]


def test_each_call_of_a_shared_module_is_a_site() -> None:
    _, _, model = captured_net("shared relu")
    sites = [site.target for site in graph.activation_sites(model)]
    assert len(sites) == len(set(sites)) == 3


def test_sites_are_in_the_order_in_which_they_run() -> None:
    """And so are their modules, which ``neurons()`` goes through."""
    _, _, model = captured_net("concatenated")
    names = [site.target for site in graph.activation_sites(model)]
    assert names == ["relu", "clamp", "relu_1"]
    assert [name for name, _ in model.named_modules() if name in names] == names


def test_a_value_that_is_read_elsewhere_ends_an_activation() -> None:
    """Of x * sigmoid(x), the sigmoid alone is one if others read it."""

    class Gate(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            gate = x.sigmoid()
            return x * gate, gate.flip(1)

    model, _ = captured(nn.Sequential(nn.Conv2d(3, 4, 3), Gate()), IMAGES)
    (site,) = graph.activation_sites(model)
    assert isinstance(model.get_submodule(site.target), nn.Sigmoid)


def test_formulas_have_parameters_of_their_own() -> None:
    formula: Formula = found("composed").of("swish, trained")[0]
    (parameter,) = formula.parameters()
    assert parameter.requires_grad and parameter == 0.75 and "sigmoid" in repr(formula)
    x = torch.tensor([1.0, -2.0])
    formula(x).sum().backward()
    assert parameter.grad is not None
    parameter.grad = None


def test_a_trained_formula_by_channel_knows_where_the_channels_lie() -> None:
    formula: Formula = found("composed").of("prelu by hand")[0]
    assert formula.example == (1, 4, 1, 1)


@pytest.mark.parametrize("others", [[nn.ReLU()], [nn.PReLU(4)], [nn.PReLU(4), nn.Tanh()]])
@pytest.mark.parametrize("first", [True, False])
def test_slopes_of_a_prelu_among_others_lie_along_the_channels(others: list[nn.Module], first: bool) -> None:
    torch.manual_seed(0)
    prelu = nn.PReLU(4)
    prelu.weight.data.uniform_(0.1, 0.9)
    for layer, x in ((nn.Conv2d(3, 4, 1), torch.randn(64, 3, 5, 5)), (nn.Linear(3, 4), torch.randn(256, 3))):
        ann = nn.Sequential(layer, *([prelu, *others] if first else [*others, prelu])).eval()
        snn = sjpc.ParallelConverter([x], time_steps=64, show_progress=False).convert(ann)
        (site,) = snn.neurons()
        assert isinstance(site.node.activation, Formula)
        with torch.no_grad():
            assert (snn.predict(x) - ann(x)).square().mean() < 1e-3 * ann(x).var()


class ConstantBranch(nn.Module):
    """An activation of a table that is the same for every input, as in Swin's position bias."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.randn(4, 2))
        self.bias, self.conv = nn.Sequential(nn.Linear(2, 3), nn.GELU(), nn.Linear(3, 1)), nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv(x) + self.bias(self.table).view(4, 1, 1))


def test_activations_of_constants_are_no_sites() -> None:
    model, _ = captured(ConstantBranch(), IMAGES)
    (site,) = graph.activation_sites(model)
    assert site.target == "relu" and not any(isinstance(module, nn.GELU) for module in model.modules())


class Prepared(nn.Module):
    """What is computed of the input before the first layer is a preparation of it."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.log1p(x.abs()) * 2 + (x * 3).round().abs() ** 2


def test_preparations_of_the_input_are_no_sites() -> None:
    model, _ = captured(nn.Sequential(Prepared(), nn.Conv2d(3, 4, 3), nn.ReLU()), IMAGES)
    assert [site.target for site in graph.activation_sites(model)] == ["2"]


class Spectrogram(nn.Module):
    """As torchaudio's. The reshapes ask for the sizes of the input, which are no further inputs of the preparation."""

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        spectrum = torch.stft(flat, 16, 8, window=torch.ones(16), return_complex=True)
        return spectrum.reshape(x.shape[0], -1, spectrum.shape[-1]).abs().pow(2.0)


def test_spectrograms_are_no_sites() -> None:
    ann = nn.Sequential(Spectrogram(), nn.Conv1d(9, 4, 3), nn.ReLU())
    model, _ = captured(ann, torch.randn(4, 1, 128))
    assert [site.target for site in graph.activation_sites(model)] == ["2"]


@pytest.mark.parametrize(
    "model",
    [
        nn.Linear(12, 4), nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2)), nn.Identity(),
        nn.Sequential(nn.Softmax(1)), nn.Sequential(nn.Linear(12, 4), nn.Hardtanh(0.5, 2)),
    ],
)  # fmt: skip
def test_nothing_to_convert(model: nn.Module) -> None:
    with pytest.raises(sjpc.ConversionError, match="nothing to convert"):
        graph.activation_sites(captured(model, IMAGES)[0])
