"""Which sizes are free, which the model fixes, and that another is refused by its name and never wrong."""

from __future__ import annotations

import copy
import math
import pickle
import re

import pytest
import torch
from captured import captured
from torch import Tensor, nn

import sj_parallel_conversion as sjpc
from sj_parallel_conversion.ann2snn.graph.sizes import Sizes

X = torch.randn(4, 3, 12, 10, generator=torch.Generator().manual_seed(0))


class Model(nn.Module):
    def __init__(self, form: str) -> None:
        super().__init__()
        self.conv, self.head, self.form = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 5), form
        self.flat = nn.Linear(480, 5)

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        if self.form == "even" and x.shape[2] % 2:
            raise ValueError("an even height, please")
        if self.form == "branch" and x.shape[3] > 16:
            return x.mean((1, 2, 3))
        y = torch.relu(self.conv(x))
        if self.form == "flat":
            return self.flat(y.flatten(1))
        if self.form == "whole batches":
            return self.head(y.view(4, 4, 120).mean(2))
        if self.form == "two inputs":
            return self.head((y + other).sum((2, 3)))
        return self.head(y.sum((2, 3)) / (y.shape[2] * y.shape[3]))


def run(ann: nn.Module, *inputs: Tensor) -> Tensor:
    net, signature = captured(ann, {"x": X, "other": X.mean(1, keepdim=True)} if ann.form == "two inputs" else X)
    return signature.build(net(*signature.batch(inputs, {}).tensors))


@pytest.mark.parametrize("shape", [(4, 3, 12, 10), (1, 3, 12, 10), (7, 3, 9, 20), (2, 3, 31, 6)])
@torch.no_grad()
def test_free_sizes_give_the_anns_result(shape: tuple[int, ...]) -> None:
    ann, x = Model("mean").eval(), torch.randn(shape)
    torch.testing.assert_close(run(ann, x), ann(x))


@pytest.mark.parametrize(
    ("form", "shape", "says"),
    [
        ("flat", (4, 3, 12, 11), r"x\.shape\[3\] is 11"),
        ("mean", (4, 2, 12, 10), r"x\.shape\[1\] is 2, and has to be 3"),
        ("even", (4, 3, 11, 10), r"x\.shape\[2\] is 11, and the captured network holds only where"),
        ("branch", (4, 3, 12, 20), r"x\.shape\[3\] is 20, and the captured network holds only where"),
        ("whole batches", (3, 3, 12, 10), r"x\.shape\[0\] is 3, and has to be 4"),
        ("mean", (4, 3, 12), r"needs an input \[N, 3, 12, 10\]"),
    ],
)
@torch.no_grad()
def test_others_are_refused_by_name(form: str, shape: tuple[int, ...], says: str) -> None:
    with pytest.raises(sjpc.DataError, match=says):
        run(Model(form).eval(), torch.zeros(shape))


@torch.no_grad()
def test_what_the_model_allows_within_its_conditions() -> None:
    for form, shape in (("even", (2, 3, 16, 7)), ("branch", (5, 3, 7, 16)), ("whole batches", (4, 3, 12, 10))):
        ann, x = Model(form).eval(), torch.randn(shape)
        torch.testing.assert_close(run(ann, x), ann(x), msg=form)


@torch.no_grad()
def test_two_inputs_of_one_size() -> None:
    ann, x = Model("two inputs").eval(), torch.randn(3, 3, 8, 9)
    torch.testing.assert_close(run(ann, x, x[:, :1]), ann(x, x[:, :1]))
    with pytest.raises(sjpc.DataError, match=r"other\.shape\[3\] is 8"):
        run(ann, x, x[:, :1, :, :8])


@torch.no_grad()
def test_one_sample_is_enough() -> None:
    ann = Model("mean").eval()
    net, signature = captured(ann, X[:1])
    assert torch.equal(signature.build(net(*signature.batch((X,), {}).tensors)), ann(X))
    assert not signature.sizes.fixed_batch


class OnlySeveral(nn.Module):
    """Treats a single sample in another way than several."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(torch.relu(x)).squeeze(0) * 2 if len(x) == 1 else self.layer(torch.relu(x))


@torch.no_grad()
def test_one_sample_that_is_another_case_is_refused() -> None:
    net, signature = captured(OnlySeveral().eval(), torch.randn(4, 6))
    assert signature.build(net(*signature.batch((torch.ones(2, 6),), {}).tensors)).shape == (2, 5)
    with pytest.raises(sjpc.DataError, match="two samples or more"):
        signature.batch((torch.ones(1, 6),), {})


def test_copies_refuse_alike() -> None:
    _, signature = captured(Model("even").eval(), X)
    for twin in (signature, copy.deepcopy(signature), pickle.loads(pickle.dumps(signature))):
        assert twin.batch((torch.ones(1, 3, 8, 8),), {}).size == 1
        with pytest.raises(sjpc.DataError, match=r"x\.shape\[2\] is 9"):
            twin.batch((torch.ones(1, 3, 9, 8),), {})


class Depends(nn.Module):
    """Computes something else where a condition on its sizes holds."""

    def __init__(self, condition: str) -> None:
        super().__init__()
        self.conv, self.condition = nn.Conv2d(3, 4, 3, padding=1), condition

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.conv(x)).mean((2, 3))
        return y * 3 if CONDITIONS[self.condition](*x.shape) else y


CONDITIONS = {
    "half is not 1": lambda n, c, h, w: h // 2 != 1,
    "half is 4": lambda n, c, h, w: h // 2 == 4,
    "half of the batch": lambda n, c, h, w: n // 2 != 1,
    "two": lambda n, c, h, w: h % 4 != 1 and w > 5,
    "fraction": lambda n, c, h, w: h / 2 == 4.5,
    "one of": lambda n, c, h, w: h // 2 in (4, 5),
    "smaller": lambda n, c, h, w: min(h, w) < 7,
    "product": lambda n, c, h, w: h * w >= 80 and n < 6,
    "root": lambda n, c, h, w: math.sqrt(h) < 3,
    "rest": lambda n, c, h, w: bool(-h % 4),
    "key": lambda n, c, h, w: {9: True}.get(h, False),
    "pair": lambda n, c, h, w: (h, w) > (9, 9),
}
OTHERS = [
    (4, 9, 10), (1, 9, 10), (2, 9, 10), (3, 9, 10), (7, 9, 10), (4, 8, 10), (4, 10, 10), (4, 2, 10), (4, 3, 10),
    (4, 5, 10), (4, 12, 10), (4, 9, 5), (4, 9, 6), (4, 9, 20), (4, 16, 16), (4, 3, 3), (4, 1, 1), (1, 2, 2),
]  # fmt: skip


@pytest.mark.parametrize("condition", CONDITIONS)
@torch.no_grad()
def test_conditions_hold_or_are_named(condition: str) -> None:
    ann, x = Depends(condition).eval(), torch.randn(4, 3, 9, 10)
    net, signature = captured(ann, x)
    taken = []
    for n, h, w in OTHERS:
        x = torch.randn(n, 3, h, w)
        try:
            batch = signature.batch((x,), {})
        except sjpc.DataError as error:
            assert re.search(rf"x\.shape\[(0\] is {n}|2\] is {h}|3\] is {w})\b", str(error))
            continue
        torch.testing.assert_close(signature.build(net(*batch.tensors)), ann(x))
        taken.append((n, h, w))
    assert (4, 9, 10) in taken and 1 < len(taken) < len(OTHERS)


class KeepsSize(nn.Module):
    """Makes a grid anew when the size is another than at the last call, as detectors do."""

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis, self.size, self.grid = axis, None, torch.zeros(1)

    def forward(self, x: Tensor) -> Tensor:
        if self.size != x.shape[self.axis]:
            self.size, self.grid = x.shape[self.axis], torch.ones(1)
        return torch.relu(x) + self.grid


@pytest.mark.parametrize("axis", [0, 2])
@torch.no_grad()
def test_the_size_of_an_earlier_call_is_taken(axis: int) -> None:
    ann, shape = KeepsSize(axis), [4, 3, 12, 10]
    shape[axis] = 7
    ann(torch.randn(shape))
    net, signature = captured(ann.eval(), X[:4])
    x = torch.randn(shape)
    assert torch.equal(signature.build(net(*signature.batch((x,), {}).tensors)), torch.relu(x) + 1)
    assert ann.size == 7


class Seven(nn.Module):
    """Treats seven samples in another way than others."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x) + (2 if len(x) == 7 else 1)


@torch.no_grad()
def test_a_size_that_is_another_case_is_refused() -> None:
    _, signature = captured(Seven().eval(), X)
    with pytest.raises(sjpc.DataError, match=r"x\.shape\[0\] is 7, and the captured network holds only where"):
        signature.batch((torch.zeros(7, 3, 12, 10),), {})


class SevenBySix(nn.Module):
    """Treats images of one height and width in another way than others."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x) + (2 if x.shape[2] == 7 and x.shape[3] == 6 else 1)


@torch.no_grad()
def test_a_size_that_is_another_case_together_with_another_is_refused() -> None:
    _, signature = captured(SevenBySix().eval(), X)
    for width in (6, 10):
        with pytest.raises(sjpc.DataError, match=r"x\.shape\[2\] is 7, and the captured network holds only where"):
            signature.batch((torch.zeros(2, 3, 7, width),), {})


class KeepsBoth(nn.Module):
    """Makes a grid anew when height or width are others than at the last call."""

    def __init__(self) -> None:
        super().__init__()
        self.size, self.grid = None, torch.zeros(1)

    def forward(self, x: Tensor) -> Tensor:
        if self.size != x.shape[2:]:
            self.size, self.grid = x.shape[2:], torch.ones(x.shape[2:])
        return torch.relu(x) + self.grid


@torch.no_grad()
def test_both_sizes_of_an_earlier_call_are_taken() -> None:
    ann, x = KeepsBoth().eval(), torch.randn(4, 3, 7, 6)
    ann(x)
    net, signature = captured(ann, X[:4])
    for given in (x, x[..., :5], x[:, :, :5]):
        assert torch.equal(signature.build(net(*signature.batch((given,), {}).tensors)), torch.relu(given) + 1)


@torch.no_grad()
def test_a_size_that_is_much_larger_than_the_data_s_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    ann = KeepsBoth().eval()
    ann(torch.zeros(1, 1, 10**6, 1))
    monkeypatch.setattr(Sizes, "_resized", lambda *_: pytest.fail("it is made"))
    _, signature = captured(ann, X[:4])
    assert signature.batch((X[:2],), {}).size == 2
