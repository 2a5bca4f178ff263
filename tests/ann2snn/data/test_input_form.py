"""How a model is called: which arguments are tensors, which hold samples, and calls of another form."""

from __future__ import annotations

import pickle
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

import sj_parallel_conversion as sjpc
from sj_parallel_conversion.ann2snn.data.inputs import Batch, Call, InputForm, named_forward, parameters_of

X, MASK, TABLE = torch.randn(4, 3), torch.ones(4, 5), torch.randn(7, 2)


class Model(nn.Module):
    """Arguments of every kind, with defaults."""

    def forward(
        self, x: Tensor, mask: object = None, scale: float = 2.0, *rest: Tensor, flag: bool = False, **more: Tensor
    ) -> Tensor:
        return x


@dataclass
class Points:
    position: Tensor
    colour: Tensor


def form(*args: object, **kwargs: object) -> InputForm:
    return InputForm(Model(), Call(args, kwargs))


CALLS = {
    "one": ((X,), {}),
    "keyword": ((), {"x": X}),
    "two": ((X, MASK), {}),
    "constants": ((X, None, 3.0), {"flag": True}),
    "variadic": ((X, MASK, 1.0, TABLE, TABLE + 1), {}),
    "free keywords": ((X,), {"a": TABLE, "shift": MASK}),
    "nested": (({"a": X, "b": [MASK, "text"]},), {}),
    "dataclass": ((Points(X, MASK),), {}),
    "list": (([X, X[:2]],), {}),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_call_becomes_a_batch_and_a_call_again(name: str) -> None:
    args, kwargs = CALLS[name]
    known = form(*args, **kwargs)
    again = known.call(known.batch(Call(args, kwargs)).tensors)
    assert repr(again) == repr(Call(args, kwargs)), "arguments are given as they were, by position or by name"
    assert pickle.loads(pickle.dumps(known)).batch(again).tensors[0].shape == X.shape


def test_tensors_are_named() -> None:
    assert form(X, mask=MASK).tensor_names == ["x", "mask"]
    assert form({"a": X, "b": [MASK, 1]}).tensor_names == ["x['a']", "x['b'][0]"]
    assert form(X, MASK, 1.0, TABLE).tensor_names == ["x", "mask", "*[0]"]
    assert form(Points(X, MASK)).tensor_names == ["x[0]", "x[1]"]


def test_which_calls_are_one_tensor() -> None:
    assert form(X).is_one_tensor and form(x=X).is_one_tensor
    others = (form(X, MASK), form([X]), form({"a": X}), form(X, None, 3.0))
    assert not any(other.is_one_tensor for other in others)


def test_which_tensors_hold_samples() -> None:
    """The first tensor says how many there are; what has as many along its first axis holds samples."""
    found = form(X, MASK, 1.0, TABLE, torch.tensor(3.0), position=torch.zeros(1, 5))
    assert found.batched == (True, True, False, False, False)


@pytest.mark.parametrize(
    ("known", "given"),
    [
        ("one", Call((X,), {"mask": None})),
        ("one", Call((X, None, 2.0), {"flag": False})),
        ("one", Call((), {"x": X})),
        ("two", Call((X,), {"mask": MASK})),
        ("constants", Call((X,), {"scale": 3.0, "flag": True, "mask": None})),
    ],
)
def test_spellings_of_one_call(known: str, given: Call) -> None:
    args, kwargs = CALLS[known]
    expected = form(*args, **kwargs).batch(Call(args, kwargs)).tensors
    tensors = form(*args, **kwargs).batch(given).tensors
    assert all(a is b for a, b in zip(tensors, expected, strict=True))


@pytest.mark.parametrize(
    ("known", "given", "says"),
    [
        ("one", Call((X, MASK), {}), "unknown argument 'mask'.*converted with x;"),
        ("one", Call((), {}), "argument 'x' is missing"),
        ("one", Call((X,), {"x": X}), "argument 'x' is given twice"),
        ("one", Call((X,), {"shift": X}), "unknown argument 'shift'"),
        ("one", Call((X,), {"labels": X}), "takes no targets, and was given 'labels'"),
        ("one", Call((3.0,), {}), "argument 'x' is 3.0, and the network was converted with a tensor"),
        ("two", Call((X,), {}), "argument 'mask' is None, and the network was converted with a tensor"),
        ("constants", Call((X,), {"flag": True}), "argument 'scale' is 2.0, and the network was converted with 3.0"),
        ("constants", Call((X, None, 3.0), {"flag": False}), "argument 'flag' is False.*converted with True"),
        ("constants", Call((X, MASK, 3.0), {"flag": True}), "argument 'mask' is a tensor.*converted with None"),
        ("nested", Call(({"a": X, "b": [MASK]},), {}), r"built otherwise; there are x\['a'\], x\['b'\]\[0\]"),
        ("list", Call(([X],), {}), r"built otherwise.*converted with x\[0\], x\[1\]"),
    ],
)
def test_calls_of_another_form(known: str, given: Call, says: str) -> None:
    args, kwargs = CALLS[known]
    with pytest.raises(sjpc.DataError, match=says):
        form(*args, **kwargs).batch(given)


def test_a_call_without_a_tensor() -> None:
    with pytest.raises(sjpc.DataError, match="Model is called without a tensor"):
        form(3.0)


def test_models_whose_arguments_cannot_be_told() -> None:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.forward = torch.relu  # a builtin has no signature

    assert parameters_of(Wrapped()) == []
    known = InputForm(Wrapped(), Call((X,), {}))
    assert known.call(known.batch(Call((X,), {})).tensors).args[0] is X


BATCH = Batch((X, TABLE, MASK), (True, False, True))


def test_samples_of_a_batch() -> None:
    assert BATCH.size == 4 and Batch((TABLE,), (False,)).size == 1
    assert [[len(x) for x in part.tensors] for part in BATCH.split(3)] == [[3, 7, 3], [1, 7, 1]]
    assert torch.equal(BATCH.select(torch.tensor([True, False, False, True])).tensors[0], X[[0, 3]])
    longer = BATCH.extended(6)
    assert torch.equal(longer.tensors[0], X[[0, 1, 2, 3, 0, 1, 2, 3, 0, 1]]) and longer.tensors[1] is TABLE


def test_a_clone_may_be_written_to() -> None:
    with torch.inference_mode():
        made_there = Batch((torch.zeros(2, 2),), (True,))
    clone = made_there.clone()
    clone.tensors[0].add_(1)
    assert not made_there.tensors[0].any() and not clone.tensors[0].is_inference()


def test_moving_a_batch() -> None:
    moved = Batch((X, torch.arange(4)), (True, True)).to(torch.device("meta"), torch.float64)
    assert [x.dtype for x in moved.tensors] == [torch.float64, torch.long]
    assert all(x.is_meta for x in moved.tensors)
    assert BATCH.to(torch.device("cpu"), None).tensors[0] is X


def test_a_function_with_the_names_of_a_form() -> None:
    form = InputForm(Model(), Call((X, MASK), {"scale": 3.0}))
    twin = nn.Module()
    twin.forward = named_forward(form)
    found = parameters_of(twin)
    assert [parameter.name for parameter in found] == ["x", "mask", "scale"]
    assert [parameter.name for parameter in found if parameter.default is parameter.empty] == ["x"]
