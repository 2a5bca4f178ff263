"""Inputs and outputs of every form come back from a file."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from nets import TOKENS
from random_nets import run
from saved import converted, round_trip, same
from torch import Tensor, nn
from torch.nn import functional as F

import sj_parallel_conversion as sjpc

Pair = namedtuple("Pair", ["first", "second"])


@dataclass
class Answer:
    scores: Tensor
    note: str


def own_field(kind: type) -> str:
    """The name of the first field."""
    return kind._fields[0] if kind is Pair else "scores"


class Outputs(nn.Module):
    """Returns one of many types, and takes two inputs by name."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.fc, self.kind = nn.Linear(6, 4), kind

    def forward(self, x: Tensor, mask: Tensor | None = None, scale: float = 1.0) -> object:
        y = F.relu(self.fc(x)) * scale
        y = y if mask is None else y * mask.unsqueeze(-1)
        return {
            "tuple": lambda: (y, "word", None, [y + 1, 2]),
            "dict": lambda: {"a": y, 3: (y * 2,)},
            "ordered": lambda: OrderedDict(b=y, a=y + 1),
            "size": lambda: {"a": y, "size": y.shape, "inner": [y.size()[1:]]},
            "pair": lambda: Pair(y, y + 1),
            "answer": lambda: Answer(y, "word"),
        }[self.kind]()


@pytest.mark.parametrize("kind", ["tuple", "dict", "ordered", "size"])
@torch.no_grad()
def test_plain_outputs_come_back_exactly(kind: str, tmp_path: Path) -> None:
    x = {"x": TOKENS, "mask": torch.rand(7, 5), "scale": 0.5}
    snn = converted(Outputs(kind), x)
    other = round_trip(snn, tmp_path)
    y, z = run(snn.predict, x), run(other.predict, x)
    assert same(y, z) and str(y) == str(z)
    with pytest.raises(sjpc.DataError, match="scale"):
        other.predict(**x | {"scale": 2.0})
    with pytest.raises(sjpc.DataError, match=r"x.shape\[2\]"):
        other.predict(**x | {"x": torch.randn(7, 5, 3)})


@pytest.mark.parametrize(("kind", "own", "instead"), [("pair", Pair, tuple), ("answer", Answer, OrderedDict)])
@torch.no_grad()
def test_own_types_need_their_class(kind: str, own: type, instead: type, tmp_path: Path) -> None:
    snn = converted(Outputs(kind), TOKENS)
    expected = snn.predict(TOKENS)
    with pytest.warns(UserWarning, match=f"classes=\\[{own.__name__}\\]"):
        other = round_trip(snn, tmp_path)
    found = other.predict(TOKENS)
    assert type(found) is instead and type(expected) is own
    assert torch.equal(next(iter(found if instead is tuple else found.values())), getattr(expected, own_field(own)))
    again = round_trip(snn, tmp_path, classes=[own]).predict(TOKENS)
    assert type(again) is own and str(again) == str(expected)
