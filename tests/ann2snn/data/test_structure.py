"""Nested values become flat lists and are built again, whatever torch's pytrees know, and dataclasses."""

from __future__ import annotations

import pickle
from collections import OrderedDict, namedtuple
from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sj_parallel_conversion.ann2snn.data.structure import flatten

Pair = namedtuple("Pair", "left right")
ONE, TWO = torch.ones(2), torch.zeros(3)


@dataclass
class Output:
    """As the outputs of many libraries."""

    logits: Tensor
    hidden: object = None


@dataclass(frozen=True)
class Computed:
    """Its __init__ refuses what it has computed."""

    x: Tensor
    size: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", len(self.x))


CASES = {
    "tensor": (ONE, [ONE]),
    "none": (None, [None]),
    "tuple": ((ONE, 3), [ONE, 3]),
    "list in a tuple": ((ONE, [TWO, "text"]), [ONE, TWO, "text"]),
    "dict": ({"b": ONE, "a": TWO}, [ONE, TWO]),
    "ordered dict": (OrderedDict(b=ONE, a=TWO), [ONE, TWO]),
    "named tuple": (Pair(ONE, TWO), [ONE, TWO]),
    "nothing": ((), []),
    "dataclass": (Output(ONE), [ONE, None]),
    "dataclass in a list": ([Output(ONE, {"a": TWO}), 4], [ONE, TWO, 4]),
    "dataclass in a dataclass": (Output(ONE, Output(TWO)), [ONE, TWO, None]),
    "frozen": (Computed(ONE), [ONE, 2]),
    "a class": (Output, [Output]),
    "size": (torch.Size([2, 3]), [2, 3]),
    "size in a dict": ({"a": [torch.Size([]), ONE.shape], "b": ONE}, [2, ONE]),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_there_and_back(name: str) -> None:
    value, expected = CASES[name]
    leaves, structure = flatten(value)
    assert len(leaves) == structure.leaves == len(expected)
    assert all(a is b or a == b for a, b in zip(leaves, expected, strict=True))
    again = structure.unflatten(leaves)
    assert type(again) is type(value) and repr(again) == repr(value)
    assert flatten(again)[1] == structure


def test_other_leaves_take_their_places() -> None:
    _, structure = flatten([Output(ONE, {"a": TWO}), 4])
    first, second = structure.unflatten([1, 2, 3])
    assert (first.logits, first.hidden, second) == (1, {"a": 2}, 3)


def test_a_size_of_other_things_is_built_alike() -> None:
    _, structure = flatten({"a": torch.Size([2, 3])})
    place = structure.unflatten(["first", "second"])
    assert isinstance(place["a"], tuple) and list(place["a"]) == ["first", "second"]
    assert flatten(place)[1] == structure


def test_structures_are_compared() -> None:
    structures = [flatten(value)[1] for value, _ in CASES.values()]
    same = flatten(ONE)[1]
    assert same == flatten(None)[1] == flatten(Output)[1]
    different = [s for s in structures if s != same]
    assert all(a != b for i, a in enumerate(different) for b in different[:i])
    assert structures[0] != "text"


def test_networks_that_keep_structures_can_be_saved() -> None:
    structure = flatten([Output(ONE, Pair(TWO, 1))])[1]
    assert pickle.loads(pickle.dumps(structure)) == structure


VALUES = st.recursive(
    st.integers(0, 9),
    lambda inner: st.lists(inner, max_size=3)
    | st.tuples(inner, inner)
    | st.dictionaries(st.sampled_from("abc"), inner)
    | st.builds(Output, inner, inner)
    | st.builds(Pair, inner, inner),
)


@given(VALUES)
def test_any_value(value: object) -> None:
    leaves, structure = flatten(value)
    assert all(isinstance(leaf, int) for leaf in leaves)
    assert structure.unflatten(leaves) == value
