"""Objects that hold tensors where a capture does not find them."""

from __future__ import annotations

import functools
from collections import UserDict
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import sj_parallel_conversion as sjpc

X = torch.randn(16, 4, generator=torch.Generator().manual_seed(0))


class Slots:
    """Has no ``__dict__``."""

    __slots__ = ("absent", "value")

    def __init__(self, value: object) -> None:
        self.value = value


class Endless:
    """Holds itself many times."""

    def __init__(self) -> None:
        self.mine = [self] * 100
        self.all = [self.mine] * 100


class Returns(nn.Module):
    """Makes an object of its activations."""

    def __init__(self, make: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.layer, self.make = nn.Linear(4, 3), make

    def forward(self, x: Tensor, state: object = None) -> tuple[Tensor, object]:
        y = torch.relu(self.layer(x))
        return y, self.make(y)


HOLDERS: dict[str, Callable[[object], object]] = {
    "slots": Slots, "in a list": lambda y: Slots([y]), "dict": lambda y: UserDict(a={1: y}),
    "arguments": lambda y: functools.partial(print, y), "frozen": lambda y: Slots(frozenset([y])),
}  # fmt: skip


@pytest.mark.parametrize("name", HOLDERS)
def test_objects_with_tensors_are_found(name: str) -> None:
    converter = sjpc.ParallelConverter([X], show_progress=False)
    with pytest.warns(UserWarning, match="the converted network gives None in its place"):
        snn = converter.convert(Returns(HOLDERS[name]).eval())
    assert snn.predict(X)[1] is None
    batches = [{"x": X, "state": HOLDERS[name](torch.zeros(3))}]
    with pytest.raises(sjpc.ConversionError, match=r"argument 'state' is a .* that holds tensors"):
        sjpc.ParallelConverter(batches, show_progress=False).convert(Returns(len).eval())


@pytest.mark.parametrize("value", [Slots(3), Endless(), slice(1, 2), functools.partial(print, 3)])
def test_objects_without_tensors_are_constants(value: object) -> None:
    snn = sjpc.ParallelConverter([X], show_progress=False).convert(Returns(lambda y: value).eval())
    assert snn.predict(X)[1] is not None
