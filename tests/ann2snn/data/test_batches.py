"""Calibration batches: every form that a loader yields, what a model is called with for it, and what is refused."""

from __future__ import annotations

from collections import OrderedDict, UserDict, namedtuple

import pytest
import torch
from captured import data_of
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import sj_parallel_conversion as sjpc
from sj_parallel_conversion.ann2snn.data import batches
from sj_parallel_conversion.ann2snn.data.batches import CalibrationData, model_call
from sj_parallel_conversion.ann2snn.data.inputs import Call

X, Y = torch.arange(12.0).view(4, 3), torch.zeros(4, dtype=torch.long)
IDS, PICTURE = torch.zeros(4, 2, dtype=torch.long), torch.zeros(3, 8, 6)
Sample = namedtuple("Sample", "image label")
TEXT = {"input_ids": IDS, "attention_mask": IDS}
LAYER = nn.Linear(3, 2)  # its forward takes one argument, and calls it `input`


def data(loader: object, dtype: torch.dtype | None = None, show_progress: bool = False) -> CalibrationData:
    return CalibrationData(loader, LAYER, torch.device("cpu"), dtype, show_progress)


def firsts(stream: CalibrationData, description: str = "reading") -> list[Tensor]:
    """The first tensor of each batch."""
    return [batch.tensors[0] for batch in stream.batches(description)]


class TwoInputs(nn.Module):
    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        return image * mask


class WithLoss(nn.Module):
    """As the models of Hugging Face: targets are optional, and make a loss."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, labels: Tensor | None = None) -> Tensor:
        return input_ids


class NeedsTargets(nn.Module):
    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        return x


class Detector(nn.Module):
    def forward(self, images: list[Tensor], targets: object = None) -> list[Tensor]:
        return images


class Variadic(nn.Module):
    def forward(self, *args: Tensor, **kwargs: Tensor) -> Tensor:
        return args[0]


@pytest.mark.parametrize(
    "batch",
    [
        X,
        (X,),
        [X],
        (X, Y),
        [X, Y],
        (X, X, Y),
        Sample(X, Y),
        {"image": X},
        {"label": Y, "image": X},
        {"pixel_values": X, "labels": Y},
        OrderedDict(index=3, anything=X),
        {"other": torch.zeros(4, 1, 1), "x": X},
        UserDict(labels=Y, pixel_values=X),
        ({"image": X}, Y),
        [{"name": "cat", "anything": X}],
        ((X, Y), Y),
    ],
)
@pytest.mark.parametrize("model", [LAYER, nn.Sequential(), Variadic()], ids=["Linear", "Sequential", "variadic"])
def test_one_input(model: nn.Module, batch: object) -> None:
    args, kwargs = model_call(model, batch, 0)
    assert not kwargs and len(args) == 1 and args[0] is X


@pytest.mark.parametrize(
    ("model", "batch", "args", "kwargs"),
    [
        (TwoInputs(), (X, X, Y), (X, X), {}),
        (TwoInputs(), [X, X], (X, X), {}),
        (TwoInputs(), {"mask": X, "image": X, "label": Y}, (), {"image": X, "mask": X}),
        (WithLoss(), {**TEXT, "labels": Y}, (), TEXT),
        (WithLoss(), {"input_ids": IDS, "token_type_ids": IDS}, (), {"input_ids": IDS}),
        (WithLoss(), (X, Y), (X,), {}),
        (NeedsTargets(), {"x": X, "labels": Y}, (), {"x": X, "labels": Y}),
        (LAYER, {"input": X, "target": Y}, (), {"input": X}),
        (Detector(), [PICTURE, PICTURE[:, :5]], ([PICTURE, PICTURE[:, :5]],), {}),
        (Detector(), ((PICTURE, PICTURE), ({}, {})), ([PICTURE, PICTURE],), {}),
        (TwoInputs(), Call((X,), {"mask": X}), (X,), {"mask": X}),
    ],
)
def test_what_a_model_is_called_with(model: nn.Module, batch: object, args: tuple, kwargs: dict) -> None:
    call = model_call(model, batch, 0)
    assert call.kwargs.keys() == kwargs.keys()
    torch.testing.assert_close(call.args, args, rtol=0, atol=0)
    torch.testing.assert_close(call.kwargs, kwargs, rtol=0, atol=0)


@pytest.mark.parametrize("n", [2, 8])
def test_sequences_and_their_targets_are_no_images(n: int) -> None:
    """As a DataLoader yields them where targets are as long as inputs: both have three axes."""
    series, target = torch.zeros(n, 20, 5), torch.ones(n, 20, 1)
    (x,) = model_call(nn.Linear(5, 1), [series, target], 0).args
    assert x is series


@pytest.mark.parametrize(
    "batch",
    [None, 3, "text", [], (), {}, {"label": "cat"}, ("a", X), {"image": None}, [[1.0, 2.0]], object(), ({}, X)],
)
def test_batches_without_a_tensor(batch: object) -> None:
    with pytest.raises(sjpc.DataError, match="dataloader: batch 7 "):
        model_call(LAYER, batch, 7)


@pytest.mark.parametrize(
    ("model", "batch", "says"),
    [
        (nn.Sequential(), {"left": X, "right": X}, r"the keys left, right, and which.*Sequential is not clear"),
        (LAYER, {"labels": Y, "anything": X}, r"which.*input of Linear is not clear.*of its forward \(input\)"),
        (TwoInputs(), {"image": X, "label": Y}, r"lacks mask, which TwoInputs\.forward needs; its keys are image"),
    ],
)
def test_mappings_that_are_refused(model: nn.Module, batch: dict, says: str) -> None:
    with pytest.raises(sjpc.DataError, match=f"dataloader: batch 3 .*{says}"):
        model_call(model, batch, 3)


@pytest.mark.parametrize(
    ("x", "says"),
    [
        (torch.zeros(0, 3), "shape \\[0, 3\\]"),
        (torch.zeros(4), "shape \\[4\\]"),
        (torch.tensor(1.0), "shape \\[\\]"),
        (X.to(torch.complex64), "is torch.complex64, torch.strided; give dense tensors of real values"),
        (X.to_sparse(), "is torch.float32, torch.sparse_coo; give dense"),
        (X / 0, "NaN or infinite"),
        (torch.tensor([[1.0, float("nan")]]), "NaN or infinite"),
        (torch.tensor([[1.0, float("-inf")]]), "NaN or infinite"),
    ],
)
def test_batches_that_are_refused(x: Tensor, says: str) -> None:
    with pytest.raises(sjpc.DataError, match=f"dataloader: batch 1 .*{says}"):
        list(data([X, (x, Y)]).batches("reading"))


@pytest.mark.parametrize(
    ("model", "first", "second", "says"),
    [
        (LAYER, X, {"input": X, "extra": Y}, None),  # the same call
        (WithLoss(), {"input_ids": IDS}, TEXT, "unknown argument 'attention_mask'"),
        (WithLoss(), TEXT, {"input_ids": IDS}, "'attention_mask' is None"),
        (Detector(), [PICTURE] * 2, [PICTURE] * 3, r"built otherwise; there are images\[0\], images\[1\], images\[2\]"),
    ],
)
def test_a_batch_of_another_form_than_the_first(model: nn.Module, first: object, second: object, says: str) -> None:
    stream = data_of(model, first, second)
    if says is None:
        assert len(list(stream.batches("reading"))) == 2
        return
    with pytest.raises(sjpc.DataError, match=f"^dataloader: batch 1 differs from the first: .*{says}"):
        list(stream.batches("reading"))


def test_the_first_batch_is_the_same_each_time() -> None:
    shuffled = DataLoader(TensorDataset(torch.randn(64, 3)), batch_size=4, shuffle=True)
    stream = data(shuffled)
    assert torch.equal(stream.first().tensors[0], stream.first().tensors[0])


def test_only_floating_tensors_are_cast() -> None:
    assert data([X], torch.float64).first().tensors[0].dtype == torch.float64
    assert data([X], torch.bfloat16).first().tensors[0].dtype == torch.bfloat16
    assert data([Y.view(2, 2)], torch.float64).first().tensors[0].dtype == torch.long
    assert data([X], None).first().tensors[0].dtype == torch.float32
    both = CalibrationData([(X, Y)], TwoInputs(), torch.device("cpu"), torch.float64, False).first()
    assert [x.dtype for x in both.tensors] == [torch.float64, torch.long]


@pytest.mark.parametrize(("n", "expected"), [(1, [0, 0]), (2, [0, 1]), (4, [0, 1])])
def test_an_example_has_two_samples(n: int, expected: list[int]) -> None:
    stream = data([X[:n]])
    assert torch.equal(stream.example().tensors[0], X[expected])
    stream.fixed_batch = True
    assert torch.equal(stream.example().tensors[0], X[:n])


def test_parts_of_a_batch() -> None:
    stream = data([X])
    assert [part.size for part in stream.parts(stream.first(), 3)] == [3, 1]
    stream.fixed_batch = True
    assert [part.size for part in stream.parts(stream.first(), 3)] == [4]


@pytest.mark.parametrize("show", [True, False])
def test_progress_bar(show: bool, capsys: pytest.CaptureFixture) -> None:
    stream = data([X, X], show_progress=show)
    stream.first()
    assert capsys.readouterr().err == ""
    list(stream.batches("reading images"))
    assert ("reading images" in capsys.readouterr().err) == show


def test_what_torch_raises_on_a_batch_names_the_batch() -> None:
    stream = data([X, X.view(6, 2)])
    with (
        pytest.raises(sjpc.DataError, match=r"batch 1 of shape \[6, 2\] cannot be run by the network: mat1"),
        stream.naming_batches(),
    ):
        for batch in stream.batches("reading"):
            LAYER(*batch.tensors)


def test_batches_that_the_network_cannot_run_are_named() -> None:
    ann = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
    with pytest.raises(sjpc.DataError, match=r"Sequential itself fails.*\(input \[2, 2\]\)") as error:
        sjpc.ParallelConverter([Y.view(2, 2)], show_progress=False).convert(ann)
    assert "While executing" not in str(error.value)
    with pytest.raises(sjpc.DataError, match=r"dataloader: batch 1 of shape \[6, 2\]"):
        sjpc.ParallelConverter([X, X.view(6, 2)], show_progress=False).convert(ann)


def test_large_batches_come_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(9, 3, 4, 4)
    monkeypatch.setattr(batches, "_ELEMENTS", 4 * 48)
    stream = data([x])
    parts = [batch.tensors[0] for batch in stream.batches("reading")]
    assert [len(part) for part in parts] == [3, 3, 3] and torch.equal(torch.cat(parts), x)
    stream.fixed_batch = True
    assert len(list(stream.batches("reading"))) == 1
