"""Modules and functions that stay whole: one operator of the capture each, and the module again in the graph."""

from __future__ import annotations

import copy
import pickle
import queue
import threading
from collections.abc import Iterator

import pytest
import torch
from captured import captured, modules_of, outputs_of
from nets import IMAGES
from torch import Tensor, nn
from torch.nn import functional as F

import sj_parallel_conversion as sjpc
from sj_parallel_conversion.ann2snn import graph
from sj_parallel_conversion.ann2snn.graph import leaves, registry

TOKENS = torch.randn(4, 5, 6, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def clean_registry() -> Iterator[None]:
    """What a test registers is gone after it."""
    before, functions = list(registry.LEAVES), dict(registry.OWN_FUNCTIONS)
    yield
    registry.LEAVES[:] = before
    registry.OWN_FUNCTIONS.clear()
    registry.OWN_FUNCTIONS.update(functions)


class Branching(nn.Module):
    """Control flow on values, which no capture follows."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if x.mean() > 0 else x * 3


class Sorting(nn.Module):
    """Values as Python numbers; keeps the shape."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tensor(sorted(x.flatten().tolist()), dtype=x.dtype).view_as(x)


class Several(nn.Module):
    """Nested outputs, one of them no tensor; a keyword, a constant, and a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, x: Tensor, *, other: Tensor, times: int = 1) -> dict[str, object]:
        if x.sum() > 1e9:
            return {}
        return {"scaled": x * self.scale * times, "pair": (other + 1, x.shape[1]), "nothing": None}


class Unchanged(nn.Module):
    """Returns its input, which an operator may not."""

    def forward(self, x: Tensor) -> Tensor:
        return x


class Around(nn.Module):
    """A module between two layers."""

    def __init__(self, inner: nn.Module, **arguments: object) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.inner, self.act, self.last = nn.Linear(6, 6), inner, nn.ReLU(), nn.Linear(6, 3)
        self.arguments = arguments

    def forward(self, x: Tensor) -> Tensor:
        x = self.inner(self.first(x), **self.arguments)
        x = x[0] if isinstance(x, tuple) else x
        return self.last(self.act(x))


LEAVES = [Branching, Sorting, Unchanged]


@pytest.mark.parametrize("kind", LEAVES)
@torch.no_grad()
def test_what_cannot_be_captured_is_whole(kind: type[nn.Module]) -> None:
    ann, tokens = Around(kind()).eval(), TOKENS[:2, :2]  # torch thinks long about the order of many values
    if kind is not Unchanged:
        with pytest.raises(sjpc.ConversionError, match="register_leaf"):
            captured(ann, tokens)
    sjpc.register_leaf(kind)
    model, _ = captured(ann, tokens)
    assert type(model.get_submodule("inner")) is kind and model.get_submodule("inner") is not ann.inner
    for x in (TOKENS, TOKENS[:3], -tokens):
        for twin in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert torch.equal(twin(x)[0], ann(x))


RECURRENT = {
    "LSTM": lambda: nn.LSTM(6, 6, batch_first=True),
    "GRU": lambda: nn.GRU(6, 3, 2, batch_first=True, bidirectional=True),
    "RNN": lambda: nn.RNN(6, 6, batch_first=True, nonlinearity="relu"),
}


@pytest.mark.parametrize("name", RECURRENT)
@torch.no_grad()
def test_recurrent_layers_are_leaves(name: str) -> None:
    ann = Around(RECURRENT[name]()).eval()
    model, _ = captured(ann, TOKENS)
    assert type(model.get_submodule("inner")) is type(ann.inner)
    assert [node.target for node in graph.activation_sites(model)] == ["act"]
    for x in (TOKENS, TOKENS[:1], TOKENS[:, :3]):
        torch.testing.assert_close(model(x)[0], ann(x))


class Cells(nn.Module):
    """A loop over a cell: as many calls as tokens, each with the state of the one before."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.LSTMCell(6, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        state = None
        for token in x.unbind(1):
            state = self.cell(token, state)
        return self.head(F.relu(state[0]))


@torch.no_grad()
def test_cells_in_a_loop() -> None:
    ann = Cells().eval()
    model, _ = captured(ann, TOKENS)
    names = [name for name, module in modules_of(model).items() if isinstance(module, nn.LSTMCell)]
    assert names == ["cell", "cell_1", "cell_2", "cell_3", "cell_4"]
    torch.testing.assert_close(model(TOKENS[:2])[0], ann(TOKENS[:2]))


@torch.no_grad()
def test_arguments_and_outputs_of_any_form() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.leaf, self.act = Several(), nn.ReLU()

        def forward(self, x: Tensor) -> dict[str, object]:
            return self.leaf(self.act(x), other=x.flip(1), times=3)

    sjpc.register_leaf(Several)
    ann = Model().eval()
    model, signature = captured(ann, TOKENS)
    result, expected = signature.build(model(TOKENS)), ann(TOKENS)
    assert result.keys() == expected.keys() and result["pair"][1] == 5 and result["nothing"] is None
    torch.testing.assert_close(result, expected)
    assert len(modules_of(model)) == 2, "one call, whose tensors are read one by one"
    assert sum(node.target is leaves.tensor_leaf for node in outputs_of(model) if hasattr(node, "target")) == 2


def test_leaves_can_be_trained() -> None:
    sjpc.register_leaf(Several)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.leaf = nn.Linear(6, 6), Several()

        def forward(self, x: Tensor) -> Tensor:
            return F.relu(self.leaf(self.fc(x), other=x)["scaled"])

    ann = Model().eval()
    model, _ = captured(ann, TOKENS)
    model(TOKENS)[0].sum().backward()
    assert model.get_submodule("leaf").scale.grad is not None and model.get_submodule("fc").weight.grad is not None
    assert ann.leaf.scale.grad is None


def test_leaves_inside_of_leaves_belong_to_them() -> None:
    class Outer(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) if x.sum() > -1e9 else x

    Outer.__qualname__ = "Outer"
    globals()["Outer"] = Outer
    sjpc.register_leaf(Outer)
    sjpc.register_leaf(Branching)
    ann = Around(Outer(nn.Linear(6, 6), Branching())).eval()
    model, _ = captured(ann, TOKENS)
    assert list(modules_of(model)) == ["first", "inner", "act", "last"]
    assert torch.equal(model(TOKENS)[0], ann(TOKENS))


@torch.no_grad()
def test_subclasses_of_leaves_are_leaves_and_no_layers() -> None:
    class Noisy(nn.Linear):
        """A layer that a neuron's synapses must not be folded into."""

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).abs() + 1

    Noisy.__qualname__ = "Noisy"
    globals()["Noisy"] = Noisy
    sjpc.register_leaf(Noisy)
    ann = Around(Noisy(6, 6)).eval()
    model, _ = captured(ann, TOKENS)
    sites = {node.target for node in graph.activation_sites(model)}
    kinds = {str(node.target): kind for node, kind in graph.Signals(model, sites).kinds.items()}
    assert type(model.get_submodule("inner")) is Noisy and kinds["inner"] == "analogue"
    assert graph.analogue_operations(model) == ["inner (Noisy)"]


def test_in_a_converted_network_leaves_stay_on_decoded_values() -> None:
    ann = Around(RECURRENT["LSTM"]()).eval()
    snn = sjpc.ParallelConverter([TOKENS], time_steps=256, show_progress=False).convert(ann)
    with torch.no_grad():
        for snn.execution in ("spikes", "packed", "stepwise"):
            torch.testing.assert_close(snn.predict(TOKENS), ann(TOKENS), rtol=0.05, atol=0.02)
    assert [row.name for row in sjpc.inspect(snn, show=False).analogue] == ["inner"]


def own(x: Tensor) -> Tensor:
    """A function that users register."""
    return x * torch.sigmoid(x) + 0.1 * x.abs()


def test_functions_are_whole_in_the_thread_of_the_capture_alone() -> None:
    """Another thread's inference goes on with the function as it is."""
    sjpc.register_activation(own, lower=-1)
    seen: queue.SimpleQueue = queue.SimpleQueue()  # a list would be given back as it was

    class Watching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            thread = threading.Thread(target=lambda: seen.put(own(torch.ones(2))))
            thread.start()
            thread.join()
            return own(self.conv(x))

    model, _ = captured(Watching().eval(), IMAGES)
    assert [type(module) for module in modules_of(model).values()] == [nn.Conv2d, registry.FunctionActivation]
    assert seen.qsize() > 1
    assert all(torch.equal(seen.get(), own(torch.ones(2))) for _ in range(seen.qsize()))
    assert globals()["own"] is own and not leaves.calls


def test_dropouts_that_are_off_wake_up_when_the_network_is_trained() -> None:
    class Dropping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.drop = nn.Linear(6, 6), nn.Dropout(0.5)

        def forward(self, x: Tensor) -> Tensor:
            return F.dropout(F.relu(self.drop(self.fc(x))), 0.25, training=self.training)

    ann = Dropping().eval()
    model, _ = captured(ann, TOKENS)
    kinds = {name: type(module) for name, module in modules_of(model).items()}
    assert list(kinds.values()) == [nn.Linear, nn.Dropout, nn.ReLU, nn.Dropout] and kinds["drop"] is nn.Dropout
    assert torch.equal(model(TOKENS)[0], ann(TOKENS))
    model.train()
    assert not torch.equal(model(TOKENS)[0], model(TOKENS)[0])


def test_a_second_import_has_an_operator_of_its_own() -> None:
    names = [name for name in ("sj_parallel_conversion", "sj_parallel_conversion_1") if hasattr(torch.ops, name)]
    assert leaves.OPERATOR.namespace in names and leaves.is_leaf_operator(leaves.OPERATOR)
    library = leaves._define_operator()
    assert library.ns != leaves.OPERATOR.namespace
    library._destroy()
