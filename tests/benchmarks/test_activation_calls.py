"""The count of activation functions: each spelling counts once, and what needs no neuron does not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

import pytest
import torch
from model_zoo.activation_calls import Call, activation_calls, describe
from torch import Tensor, nn
from torch.nn import functional as F


class Applied(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Gated(nn.Module):
    """An activation in a submodule, one without, and one of parameters alone."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
        self.bias = nn.Parameter(torch.randn(4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return x * torch.sigmoid(x) + torch.tanh(self.bias)


def calls_of(model: nn.Module, hidden: Iterable[nn.Module] = ()) -> list[Call]:
    torch.manual_seed(0)
    model.eval()
    first, second = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    return activation_calls(model, [lambda: model(first), lambda: model(second)], hidden)


SPELLINGS = {
    "module": (nn.ReLU(), ["relu"]),
    "in-place module": (nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True)), ["relu"]),
    "function": (Applied(F.relu), ["relu"]),
    "torch's function": (Applied(torch.relu), ["relu"]),
    "method": (Applied(lambda x: x.relu()), ["relu"]),
    "operator": (Applied(lambda x: torch.ops.aten.relu.default(x)), ["relu"]),
    "ReLU6": (nn.ReLU6(), ["hardtanh"]),
    "PReLU": (nn.PReLU(), ["prelu"]),
    "SELU": (nn.SELU(), ["elu"]),
    "GELU": (nn.GELU("tanh"), ["gelu"]),
    "Hardswish": (nn.Hardswish(inplace=True), ["hardswish"]),
    "GLU": (nn.GLU(), ["glu"]),
    "by hand": (Applied(lambda x: x * torch.sigmoid(x)), ["sigmoid"]),
    "fused layer": (nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), ["relu"]),
    "softmax, clamp, norm": (Applied(lambda x: F.layer_norm(x.softmax(1).clamp(0, 1), (4,))), []),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_each_spelling_counts_once(spelling: str) -> None:
    model, expected = SPELLINGS[spelling]
    assert [call.kind for call in calls_of(model)] == expected


def test_calls_know_their_module_and_constants_are_left_out() -> None:
    assert [(call.kind, call.module) for call in calls_of(Gated())] == [("relu", "first.1"), ("sigmoid", "")]


def test_what_is_hidden_is_not_seen() -> None:
    model = Gated()
    assert [call.kind for call in calls_of(model, hidden=[model.first])] == ["sigmoid"]


def test_a_module_that_is_called_twice_counts_twice() -> None:
    relu, linear = nn.ReLU(), nn.Linear(4, 4)
    assert Counter(c.kind for c in calls_of(nn.Sequential(relu, linear, relu))) == {"relu": 2}


def test_nothing_stays_behind() -> None:
    model = Gated()
    calls_of(model, hidden=[model.first])
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_description_names_the_place_in_the_ann() -> None:
    ann = [
        Call("relu", "stem", (2, 4), (1.0, 2.0)),
        Call("sigmoid", "gate.0", (2, 4), (1.0, 2.0)),
        Call("sigmoid", "gate.1", (2, 4), (5.0, 9.0)),
    ]
    left = [Call("sigmoid", "net", (2, 4), (4.9, 9.2))]
    assert describe(left, ann) == "1 of 2 sigmoid (gate.1)"
    assert describe([], ann) == ""
