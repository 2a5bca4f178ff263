"""Which sizes are free, which the model fixes, and that another is refused by its name and never wrong."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from captured import captured
from torch import Tensor, nn

import sj_parallel_conversion as sjpc

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
