"""``len(x)`` while a model is captured."""

from __future__ import annotations

import pytest
import torch
from captured import captured
from torch import Tensor, nn

import sj_parallel_conversion as sjpc
from sj_parallel_conversion.ann2snn.graph.lengths import free_lengths


def flattened(x: Tensor) -> Tensor:
    return x.reshape(len(x), -1)


class Flattens(nn.Module):
    """Asks for the number of samples in its own code, and in a function that it holds."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head, self.function = nn.Conv2d(3, 4, 3), nn.Linear(36, 2), flattened

    def forward(self, x: Tensor) -> Tensor:
        assert len([1, 2]) == 2 and len("abc") == 3 and len(x.shape) == 4
        y = self.function(torch.relu(self.conv(x)))
        return self.head(y).reshape(len(x) * 2)


def test_the_batch_size_stays_free() -> None:
    ann, x = Flattens().eval(), torch.randn(4, 3, 5, 5)
    model, signature = captured(ann, x)
    assert not signature.sizes.fixed_batch
    for n in (1, 3, 7):
        torch.testing.assert_close(model(torch.ones(n, 3, 5, 5))[0], ann(torch.ones(n, 3, 5, 5)))


def test_tensors_with_values_have_numbers() -> None:
    model = Flattens()
    with free_lengths(model):
        assert "len" in globals()
        assert type(len(torch.zeros(3, 2))) is int and len(torch.zeros(3, 2)) == 3
        assert len([1]) == 1 and len({1: 2, 3: 4}) == 2
        with pytest.raises(TypeError, match="0-d tensor"):
            len(torch.tensor(1.0))
    assert "len" not in globals()


def test_a_function_of_the_user_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "len", lambda x: 99)
    with free_lengths(Flattens()):
        assert len("abc") == 99
    assert len("abc") == 99


def test_it_is_taken_back_after_an_error() -> None:
    with pytest.raises(KeyError), free_lengths(Flattens()):
        raise KeyError
    assert "len" not in globals() and "len" not in vars(nn)


class Counts(nn.Module):
    """Makes an integer of the number of samples, in one of many ways."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.conv, self.head, self.form = nn.Conv2d(3, 4, 3), nn.Linear(4, 2), form

    def forward(self, x: Tensor) -> object:
        y = torch.relu(self.conv(x))
        return FORMS[self.form](self.head(y.mean((2, 3))), y, x)


def as_a_loop(y: Tensor, h: Tensor, x: Tensor) -> Tensor:
    return torch.cat([y[i : i + 1] for i in range(int(x.shape[0]))])


FORMS = {
    "int": lambda y, h, x: y + h.reshape(int(x.shape[0]), 4, -1).mean(2)[:, :2],
    "map": lambda y, h, x: y.view(next(map(int, x.shape)), 1, 2),
    "checked": lambda y, h, x: y * 2 if isinstance(int(x.size(0)), int) and isinstance(3, int) else y,
    "of text": lambda y, h, x: y.reshape(int(x.shape[0]), -1) * int("3") * int(2.5),
    "returned": lambda y, h, x: {"y": y.reshape(int(x.shape[0]), -1), "n": int(x.shape[0])},
    "loop": as_a_loop,
    "dtype": lambda y, h, x: y + torch.zeros(int(x.shape[0]), 1, dtype=int),
    "its type": lambda y, h, x: y.reshape(int(x.shape[0]), -1) * (2 if type(y.dim()) is int else 3),
    "written": lambda y, h, x: {"y": y.reshape(int(x.shape[0]), -1), "name": f"{int(x.shape[0])} samples"},
}
FREE = ["int", "map", "checked", "of text", "returned"]


@pytest.mark.parametrize("form", FORMS)
@torch.no_grad()
def test_integers(form: str) -> None:
    ann, x = Counts(form).eval(), torch.randn(4, 3, 5, 5)
    model, signature = captured(ann, x)
    assert signature.sizes.fixed_batch == (form not in FREE)
    for n in (4, 1, 3, 7) if form in FREE else (4,):
        x = torch.randn(n, 3, 5, 5)
        given, expected = signature.build(model(*signature.batch((x,), {}).tensors)), ann(x)
        if isinstance(expected, dict):
            assert {**given, "y": 0} == {**expected, "y": 0}
            given, expected = given["y"], expected["y"]
        torch.testing.assert_close(given, expected)
    assert "int" not in globals()
    if form not in FREE:
        with pytest.raises(sjpc.DataError, match=r"x\.shape\[0\] is 3, .* the ANN fixes it, as a number in reshape"):
            signature.batch((x[:3],), {})
