"""Answering for the ReLUs of a module: copies, threads, errors, autograd, checkpoints, compiling, capturing."""

from __future__ import annotations

import copy
import inspect
import io
import pickle
import threading

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import sj_parallel_conversion as sjpc

X = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))


class Inner(nn.Module):
    """Two ReLUs as functions, in one line."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 6)

    def forward(self, x: Tensor, shift: float = 0.0) -> Tensor:
        return F.relu(self.fc(x)) - torch.relu(self.fc(-x) - shift)


class Outer(nn.Module):
    """Modules with ReLUs in one with ReLUs; one of them is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.relu = Inner(), Inner(), nn.ReLU()
        self.shared = Inner()

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.a(x) + 0.1) + self.shared(x)
        x = self.relu(self.b(x, shift=0.2)) + self.relu(-x)
        return self.shared(x).clamp(min=0)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def replaced(model: nn.Module, x: Tensor = X, **options: object) -> nn.Module:
    return sjpc.replace_activations(model, sjpc.ClipReLU, [x], **(options or {"v_threshold": 0.5}))


def clips(model: nn.Module) -> dict[str, sjpc.ClipReLU]:
    return {name: module for name, module in model.named_modules() if isinstance(module, sjpc.ClipReLU)}


def test_each_place_has_an_activation_of_its_own() -> None:
    model = replaced(Outer())
    assert set(clips(model)) == {
        "a.relu", "a.relu_1", "b.relu", "b.relu_1", "relu.0", "relu.1", "relu_1", "clamp",
        "shared.relu", "shared.relu_1",
    }  # fmt: skip
    called: list[str] = []
    for name, module in clips(model).items():
        module.register_forward_pre_hook(lambda module, args, name=name: called.append(name))
    model(X)
    assert called == [
        "a.relu", "a.relu_1", "relu_1", "shared.relu", "shared.relu_1", "b.relu", "b.relu_1", "relu.0", "relu.1",
        "shared.relu", "shared.relu_1", "clamp",
    ]  # fmt: skip


def test_a_network_by_hand() -> None:
    """The same, written out."""

    class ByHand(nn.Module):
        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.m = model

        def forward(self, x: Tensor) -> Tensor:
            c, m = clips(self.m), self.m

            def inner(block: nn.Module, x: Tensor, first: str, second: str, shift: float = 0.0) -> Tensor:
                return c[first](block.fc(x)) - c[second](block.fc(-x) - shift)

            y = c["relu_1"](inner(m.a, x, "a.relu", "a.relu_1") + 0.1)
            x = y + inner(m.shared, x, "shared.relu", "shared.relu_1")
            x = c["relu.0"](inner(m.b, x, "b.relu", "b.relu_1", 0.2)) + c["relu.1"](-x)
            return c["clamp"](inner(m.shared, x, "shared.relu", "shared.relu_1"))

    model = replaced(Outer())
    for i, module in enumerate(clips(model).values()):
        module.v_threshold.data.fill_(0.1 + 0.05 * i)
    expected = ByHand(model)(X)
    assert torch.equal(model(X), expected)
    expected.square().sum().backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    model(X).square().sum().backward()
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.grad, gradients[name], msg=name)


def test_copies_and_saved_networks_are_their_own() -> None:
    model = replaced(Outer())
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    twins = [copy.deepcopy(model), pickle.loads(pickle.dumps(model)), torch.load(file, weights_only=False)]
    expected = model(X)
    for twin in twins:
        assert torch.equal(twin(X), expected)
        for p in twin.parameters():
            p.data.zero_()
        assert torch.equal(model(X), expected), "the copy is apart"
    other = replaced(Outer())
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(X), expected)
    assert torch.allclose(model.double()(X.double()).float(), expected, atol=1e-5)
    assert torch.equal(model.float().to("cpu")(X), expected)


def test_a_part_can_be_used_alone() -> None:
    model = replaced(Outer())
    y = model.a(X)
    assert torch.equal(y, model.a.relu(model.a.fc(X)) - model.a.relu_1(model.a.fc(-X)))
    assert torch.equal(copy.deepcopy(model.a)(X), y)
    assert str(inspect.signature(model.a.forward)) == str(inspect.signature(Inner().forward))


def test_a_relu_that_is_called_several_times_cannot_be_used_alone() -> None:
    model = replaced(Outer())
    with pytest.raises(sjpc.ConversionError, match=r"relu \(ReLU\) is called several times.*call the network"):
        model.relu(X)


class Stops(nn.Module):
    def __init__(self, error: type[BaseException]) -> None:
        super().__init__()
        self.error, self.on, self.inner = error, False, Inner()

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(F.relu(x))
        if self.on:
            raise self.error
        return y


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_nothing_stays_behind_when_a_forward_stops(error: type[BaseException]) -> None:
    model = replaced(Stops(error))
    model.on = True
    with pytest.raises(error):
        model(X)
    assert torch.equal(F.relu(10 * X), (10 * X).clamp(min=0)), "outside a ReLU is a ReLU"
    assert torch.overrides._len_torch_function_stack() == 0
    model.on = False
    assert model(X).shape == X.shape


def test_threads() -> None:
    model, outputs = replaced(Outer()), []
    expected = [model(X + i) for i in range(8)]
    relus = []

    def run(i: int) -> None:
        for _ in range(20):
            relus.append(torch.equal(F.relu(9 * X), (9 * X).clamp(min=0)))
            outputs.append(torch.equal(model(X + i), expected[i]))

    threads = [threading.Thread(target=run, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outputs) == 160 and all(outputs) and all(relus)


class Checkpoints(nn.Module):
    def __init__(self, what: str, reentrant: bool) -> None:
        super().__init__()
        self.inner, self.what, self.reentrant = Inner(), what, reentrant

    def step(self, x: Tensor) -> Tensor:
        return F.relu(self.inner.fc(x))

    def forward(self, x: Tensor) -> Tensor:
        part = self.inner if self.what == "submodule" else self.step
        return checkpoint(part, x, use_reentrant=self.reentrant)


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpoints_of_submodules(reentrant: bool) -> None:
    model = replaced(Checkpoints("submodule", reentrant))
    gradients = []
    for part in (model, model.inner):
        x = X.clone().requires_grad_()
        part(x).square().sum().backward()
        gradients.append([x.grad, *(p.grad.clone() for p in model.parameters())])
        model.zero_grad()
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)
    assert all(gradient.abs().sum() > 0 for gradient in gradients[0])


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.filterwarnings("ignore:None of the inputs")
def test_checkpoints_of_functions_are_refused(reentrant: bool) -> None:
    ann = Checkpoints("function", reentrant)
    with pytest.raises(sjpc.ConversionError, match=r"Checkpoints calls a ReLU inside torch\.utils\.checkpoint"):
        replaced(ann)
    model = replaced(Checkpoints("submodule", reentrant))
    model.what = "function"  # as where only training with gradients has checkpoints
    with pytest.raises(sjpc.ConversionError, match=r"inside torch\.utils\.checkpoint"):
        model(X.clone().requires_grad_())


def test_a_user_activation_that_calls_a_relu() -> None:
    """The ReLU of an activation that was put in is none of the network's places."""

    class Halved(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.relu(x) / 2

    model = sjpc.replace_activations(Outer(), Halved, [X])
    assert sum(isinstance(module, Halved) for module in model.modules()) == 10
    assert torch.equal(model.a(X), F.relu(model.a.fc(X)) / 2 - F.relu(model.a.fc(-X)) / 2)


def test_relus_in_modules_and_hooks_inside_are_not_the_modules_own() -> None:
    class Both(Inner):
        def __init__(self) -> None:
            super().__init__()
            self.act = nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            return F.relu(self.act(self.fc(x)) - 0.1)

    class Halved(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.relu(x) / 2

    ann = Both()
    ann.fc.register_forward_hook(lambda module, args, y: F.relu(y - 0.2))
    model = sjpc.replace_activations(ann, Halved, [X])
    assert [name for name, module in model.named_modules() if isinstance(module, Halved)] == ["act", "relu"]
    assert torch.equal(model(X), F.relu(F.relu(ann.fc(X)) / 2 - 0.1) / 2)


def test_replacing_twice_finds_nothing_new() -> None:
    model = replaced(Outer())
    again = sjpc.replace_activations(model, sjpc.QCFS, [X], levels=4)
    assert not any(isinstance(module, sjpc.QCFS) for module in again.modules())
    assert torch.equal(again(X), model(X))


@pytest.mark.parametrize("v_threshold", [0.4, 1e6])
def test_in_place_semantics_under_autograd(v_threshold: float) -> None:
    class Writes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(6, 6)

        def forward(self, x: Tensor, function: object = F.relu_) -> Tensor:
            x = self.fc(x)
            half = x[:, :3]
            function(half)  # writes into x
            return x.sigmoid() * x

    model = replaced(Writes(), v_threshold=v_threshold)
    y = model.fc(X)
    clipped = torch.cat([y[:, :3].clamp(0, v_threshold), y[:, 3:]], 1)
    expected = clipped.sigmoid() * clipped
    torch.testing.assert_close(model(X), expected)
    gradients = torch.autograd.grad(expected.sum(), list(model.fc.parameters()))
    model(X).sum().backward()
    for p, gradient in zip(model.fc.parameters(), gradients, strict=True):
        torch.testing.assert_close(p.grad, gradient)
