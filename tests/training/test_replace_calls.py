"""Which calls get activations: found in both modes without a trace, told apart by their order."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, note
from nets import IMAGES
from random_nets import Inputs, each, networks, run
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves
from unchanged import assert_unchanged, snapshot

import sj_parallel_conversion as sjpc
from sj_parallel_conversion.training.relus import relu_call

X = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))


def clips(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, sjpc.ClipReLU)]


def replaced(model: nn.Module, data: object = (X,), v_threshold: float = 1e6) -> nn.Module:
    return sjpc.replace_activations(model, sjpc.ClipReLU, list(data), v_threshold=v_threshold)


class Net(nn.Module):
    """A ReLU between two layers, and what a run in training mode would change."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.norm = nn.Linear(6, 6), nn.Linear(6, 6), nn.BatchNorm1d(6)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(F.dropout(F.relu(self.norm(self.a(x))), 0.5, self.training))


def net(forward: Callable) -> nn.Module:
    return type("Own", (Net,), {"forward": forward})()


def test_nothing_but_the_copy_is_changed() -> None:
    ann = Net().train()
    kept: list[Tensor] = []
    ann.a.register_forward_hook(lambda module, args, y: kept.append(y))
    before, random = snapshot(ann), torch.random.get_rng_state()
    model = replaced(ann)
    assert_unchanged(before, snapshot(ann))
    assert torch.equal(random, torch.random.get_rng_state())
    assert not kept, "what hooks keep for the user"
    assert torch.equal(model.norm.running_mean, torch.zeros(6)) and model.norm.num_batches_tracked == 0
    model(X)
    assert len(kept) == 1, "the hooks of the copy work"


def test_batches_are_not_written_to_and_an_iterator_is_not_read_to_its_end() -> None:
    x = X.clone()
    ann = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(6, 3))
    sjpc.replace_activations(ann, sjpc.ClipReLU, itertools.cycle([x]))
    assert torch.equal(x, X)


@pytest.mark.parametrize("batch", [X, (X, torch.zeros(4)), {"image": X}, OrderedDict(x=X, label=torch.zeros(4)), [X]])
def test_forms_of_batches(batch: object) -> None:
    assert clips(replaced(Net(), [batch])) == ["relu"]


def test_several_inputs_and_lists_of_images() -> None:
    model = net(lambda self, x, y: F.relu(self.a(x)) + torch.relu(y))
    assert clips(replaced(model, [(X, X + 1, torch.zeros(4))])) == ["relu", "relu_1"]
    detector = net(lambda self, images: [F.relu(image) for image in images])
    assert clips(replaced(detector, [[IMAGES[0], IMAGES[1]]])) == ["relu", "relu_1"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_batches_are_brought_into_the_dtype_of_the_network(dtype: torch.dtype) -> None:
    assert {p.dtype for p in replaced(Net().to(dtype)).parameters()} == {dtype}


class Part(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x)


WAYS: dict[str, tuple[Callable, list[str]]] = {
    "once": (lambda self, x: self.f(x), ["f.relu"]),
    "its forward": (lambda self, x: self.f.forward(x), ["f.relu"]),
    "the forward of its class": (lambda self, x: type(self.f).forward(self.f, x), ["relu"]),
    "twice": (lambda self, x: self.f(x) + self.f(-x), ["f.relu"]),
    "nested": (lambda self, x: F.relu(self.f(x) - 1), ["f.relu", "relu"]),
    "a list": (lambda self, x: sum(f(x) for f in [self.f, F.relu, nn.ReLU()]), ["f.relu", "relu", "relu_1"]),
    "a loop": (lambda self, x: max((torch.relu(x * i) for i in (1, 2)), key=torch.sum), ["relu", "relu_1"]),
    "map": (lambda self, x: sum(map(lambda y: y.relu(), (x, -x))), ["relu", "relu_1"]),
    "a helper": (lambda self, x: helper(x) + x.clamp(min=0), ["relu", "clamp"]),
    "a module in a loop": (lambda self, x: self.act(self.act(x) - 1), ["act.0", "act.1"]),
    "a container and its part": (lambda self, x: self.box(x) + self.box[0](-x), ["box.0.0", "box.0.1"]),
}


def helper(x: Tensor) -> Tensor:
    return F.relu(x)


@pytest.mark.parametrize("way", WAYS)
def test_ways_to_call(way: str) -> None:
    forward, expected = WAYS[way]
    ann = net(lambda self, x: forward(self, self.a(x)))
    ann.f = Part()
    if "act.0" in expected:
        ann.act = nn.ReLU()
    if "box.0.0" in expected:
        ann.box = nn.Sequential(nn.ReLU())
    model = replaced(ann)
    assert sorted(clips(model)) == sorted(expected)
    assert torch.equal(model(X), ann(X))


class OverChildren(Net):
    def forward(self, x: Tensor) -> Tensor:
        for layer in self.children():
            x = F.relu(layer(x))
        return x


class Sequence(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(super().forward(x))


@pytest.mark.parametrize("make", [OverChildren, lambda: Sequence(nn.Linear(6, 6))])
def test_modules_that_go_over_their_children_would_call_an_activation_among_them(make: type[nn.Module]) -> None:
    with pytest.raises(sjpc.ConversionError, match=r"0 \((OverChildren|Sequence)\) calls a ReLU .* goes over its own"):
        replaced(nn.Sequential(make()))


class Modal(nn.Module):
    """What it calls depends on its mode and on ``more``."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.a, self.aux, self.kind, self.more = nn.Linear(6, 6), Part(), kind, 0

    def forward(self, x: Tensor, target: Tensor | None = None) -> Tensor:
        y = F.relu(self.a(x))
        if self.training and self.kind == "submodule":
            y = self.aux(y)
        if self.training and self.kind == "function":
            y = torch.relu(y)
        if self.training and self.kind == "needs a target":
            y = self.aux(y) - target
        for _ in range(self.more):
            y = y.clamp(min=0)
        return y


@pytest.mark.parametrize("training", [True, False])
def test_calls_that_only_training_mode_makes(training: bool) -> None:
    ann = Modal("submodule").train(training)
    model = replaced(ann)
    assert clips(model) == ["aux.relu", "relu"] and model.training == training
    assert torch.equal(model(X), ann(X))
    model.aux.relu.v_threshold.data.fill_(0.01)
    assert model.train()(X).max() <= 0.01 < model.eval()(X).max()


def test_a_module_that_calls_others_in_training_mode_is_an_error() -> None:
    with pytest.raises(sjpc.ConversionError, match=r"0 \(Modal\) does not call the same .* \(relu or relu, relu\)"):
        replaced(nn.Sequential(Modal("function")))


@pytest.mark.parametrize("training", [True, False])
def test_another_number_of_calls_is_an_error(training: bool) -> None:
    model = replaced(nn.Sequential(Modal("plain"))).train(training)
    model[0].more = 2
    with pytest.raises(sjpc.ConversionError, match=r"0 \(Modal\) calls 2 ReLUs .* \(relu, clamp\), and called 1 "):
        model(X)
    few = replaced(net(lambda self, x: x.relu() if x.shape[0] < 4 else F.relu(x.relu()))).train(training)
    with pytest.raises(sjpc.ConversionError, match=r"Own calls 1 ReLUs in one forward \(relu\), and called 2 "):
        few(X[:2])


def test_a_module_that_no_run_came_to_is_an_error() -> None:
    model = replaced(nn.Sequential(Modal("needs a target")))
    assert clips(model) == ["0.relu"] and model.training
    assert torch.equal(model.eval()(X), F.relu(model[0].a(X)))
    with pytest.raises(sjpc.ConversionError, match=r"0.aux \(Part\) calls 1 ReLUs .* called 0 "):
        model[0].train()(X, X)


class Straight(torch.autograd.Function):
    """Has a gradient of its own."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.clamp(min=0).round()

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        return gradient


class StraightWithSetUp(Straight):
    """The same in torch's newer form."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.clamp(min=0).round()

    @staticmethod
    def setup_context(ctx: object, inputs: tuple, output: Tensor) -> None:
        pass


STAY = {
    "autograd.Function": Straight.apply,
    "autograd.Function, newer form": StraightWithSetUp.apply,
    "this package's": lambda x: sjpc.functional.qcfs(x, torch.tensor(0.5), 4),
    "a parameter": lambda x, gain=nn.Parameter(torch.randn(6)): x * F.relu(gain) + gain.clamp(min=0),  # noqa: B008
    "indices": lambda x: x * x.long().clamp(min=0),
}


@pytest.mark.parametrize("what", STAY)
def test_what_stays(what: str) -> None:
    model = replaced(net(lambda self, x: STAY[what](F.relu(self.a(x)) - 0.1)), v_threshold=0.9)
    assert clips(model) == ["relu"]
    assert torch.equal(model(X), STAY[what](model.a(X).clamp(0, 0.9) - 0.1))


@pytest.mark.parametrize("kind", [Part, nn.ReLU])
def test_parametrisations_stay(kind: type[nn.Module]) -> None:
    ann = Net().eval()
    parametrize.register_parametrization(ann.a, "weight", kind())
    model = replaced(ann, v_threshold=1e-3)
    assert clips(model) == ["relu"] and torch.equal(model.a.weight, ann.a.weight)
    assert torch.equal(model(X), model.b(model.norm(model.a(X)).clamp(0, 1e-3)))
    assert clips(sjpc.replace_activations(nn.Sequential(ann.a, nn.ReLU()), sjpc.ClipReLU)) == ["1"]


class PlainReLUs(TorchFunctionMode):
    """Every ReLU, with an upper bound or without, as one without. Counts them."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(
        self, func: object, types: object, args: tuple = (), kwargs: dict[str, object] | None = None
    ) -> object:
        call = relu_call(func, args, kwargs or {})
        if call is None:
            return func(*args, **(kwargs or {}))
        self.count += 1
        return call.x.clamp_(min=0) if call.target is call.x else call.x.clamp(min=0)


@given(networks())
def test_random_networks(drawn: tuple[nn.Module, Inputs]) -> None:
    """One activation for each call, outputs and gradients of the same network."""
    ann, x = drawn
    note(str(ann))
    with PlainReLUs() as plain:
        expected = tree_leaves(run(ann, each(x, torch.clone)))
    try:
        model = replaced(ann, [x])
    except sjpc.ConversionError as error:
        assert plain.count == 0 and "nothing to replace" in str(error)
        return
    called: list[nn.Module] = []
    for module in model.modules():
        if isinstance(module, sjpc.ClipReLU):
            module.register_forward_pre_hook(lambda module, args: called.append(module))
    outputs = tree_leaves(run(model, each(x, torch.clone)))
    assert len(called) == len(set(called)) == plain.count
    for y, z in zip(outputs, expected, strict=True):
        torch.testing.assert_close(y, z, rtol=0, atol=0, equal_nan=True)
    if (theirs := gradients(ann, ann, expected)) is not None:
        for one, other in zip(gradients(model, ann, outputs), theirs, strict=True):
            torch.testing.assert_close(one, other, equal_nan=True)


def gradients(model: nn.Module, ann: nn.Module, outputs: list[Tensor]) -> tuple[Tensor | None, ...] | None:
    """Those of the ANN's parameters in ``model``; ``None`` where there are none, or an in-place ReLU forbids them."""
    parameters = [model.get_parameter(name) for name, _ in ann.named_parameters()]
    total = sum(y.square().sum() for y in outputs)
    try:
        return torch.autograd.grad(total, parameters, allow_unused=True)
    except RuntimeError:
        return None
