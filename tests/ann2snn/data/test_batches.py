"""Calibration batches: every form that a loader yields, and each that is refused."""

from __future__ import annotations

from collections import OrderedDict, UserDict, namedtuple

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import sj_parallel_conversion as sjpc
from sj_parallel_conversion.ann2snn.data.batches import CalibrationData, model_input, replayable

X, Y = torch.arange(12.0).view(4, 3), torch.zeros(4, dtype=torch.long)
Sample = namedtuple("Sample", "image label")


def data(loader: object, dtype: torch.dtype | None = None) -> CalibrationData:
    return CalibrationData(loader, torch.device("cpu"), dtype, show_progress=False)


@pytest.mark.parametrize(
    "batch",
    [
        X,
        (X,),
        [X],
        (X, Y),
        [X, Y],
        (X, Y, Y),
        Sample(X, Y),
        {"image": X},
        {"label": Y, "image": X},
        {"pixel_values": X, "labels": Y},
        OrderedDict(index=3, anything=X),
        {"label": Y, "anything": X},
        {"mask": Y.view(4, 1), "anything": X},
        {"weight": Y.float(), "anything": X},
        {"other": torch.zeros(4, 1, 1), "x": X},
        UserDict(labels=Y, pixel_values=X),
        ({"image": X}, Y),
        [{"label": Y, "anything": X}],
        ((X, Y), Y),
    ],
)
def test_forms_of_batches(batch: object) -> None:
    assert model_input(batch, 0) is X


@pytest.mark.parametrize(
    "batch", [None, 3, "text", [], (), {}, {"label": "cat"}, ("a", X), {"image": None}, [[1.0, 2.0]], object(), ({}, X)]
)
def test_batches_without_a_tensor(batch: object) -> None:
    with pytest.raises(sjpc.DataError, match="dataloader: batch 7 ") as error:
        model_input(batch, 7)
    assert type(batch).__name__ in str(error.value)


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
def test_batches_that_are_refused(x: torch.Tensor, says: str) -> None:
    loader = data([X, (x, Y)])
    with pytest.raises(sjpc.DataError, match=f"dataloader: batch 1 .*{says}"):
        list(loader.batches("reading"))


@pytest.mark.parametrize(
    ("loader", "says"),
    [
        (None, "dataloader=None"),
        (3, "got int"),
        (X, "got Tensor"),
        ("text", "got str"),
        ({"image": X}, "got dict"),
        (list, "got type"),
        (lambda: [X], "got function"),
        (TensorDataset(X), r"Dataset \(TensorDataset\).*DataLoader\(dataset, batch_size"),
    ],
)
def test_loaders_that_are_refused(loader: object, says: str) -> None:
    with pytest.raises(sjpc.DataError, match=says) as error:
        data(loader)
    assert "dataloader" in str(error.value)


@pytest.mark.parametrize("loader", [[], (), iter([]), DataLoader(TensorDataset(torch.zeros(0, 3)), batch_size=2)])
def test_empty_loaders(loader: object) -> None:
    with pytest.raises(sjpc.DataError, match="dataloader is empty"):
        data(loader).first()
    with pytest.raises(sjpc.DataError, match="dataloader is empty"):
        list(data(loader).batches("reading"))


class OldStyle:
    """Iterable by index only, as PyTorch datasets are."""

    def __getitem__(self, i: int) -> torch.Tensor:
        if i >= 3:
            raise IndexError
        return X + i


@pytest.mark.parametrize(
    "loader",
    [
        [X, X + 1, X + 2],
        (x for x in (X, X + 1, X + 2)),
        iter([X, X + 1, X + 2]),
        DataLoader(TensorDataset(torch.cat([X, X + 1, X + 2]), torch.zeros(12)), batch_size=4),
        OldStyle(),
    ],
    ids=["list", "generator", "iterator", "DataLoader", "getitem"],
)
def test_streams_can_be_read_again(loader: object) -> None:
    stream = data(loader)
    assert torch.equal(stream.first(), X)
    for _ in range(2):
        batches = list(stream.batches("reading"))
        assert len(batches) == 3 and torch.equal(batches[2], X + 2)


def test_what_can_be_read_again_is_left_as_it_is() -> None:
    loader = DataLoader(TensorDataset(X))
    assert replayable(loader) is loader
    batches = [X]
    assert replayable(batches) is batches
    assert replayable(iter(batches)) == batches


def test_only_floating_batches_are_cast() -> None:
    assert data([X], torch.float64).first().dtype == torch.float64
    assert data([X], torch.bfloat16).first().dtype == torch.bfloat16
    assert data([Y.view(2, 2)], torch.float64).first().dtype == torch.long
    assert data([X], None).first().dtype == torch.float32


@pytest.mark.parametrize("show", [True, False])
def test_progress_bar(show: bool, capsys: pytest.CaptureFixture) -> None:
    stream = CalibrationData([X, X], torch.device("cpu"), None, show)
    stream.first()
    assert capsys.readouterr().err == ""
    list(stream.batches("reading images"))
    assert ("reading images" in capsys.readouterr().err) == show


def test_a_batch_that_the_network_cannot_run_is_named() -> None:
    ann = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU())
    with pytest.raises(sjpc.DataError, match="fails on a calibration batch, at '0'") as error:
        sjpc.ParallelConverter([Y.view(2, 2)], show_progress=False).convert(ann)
    assert "While executing" not in str(error.value)
    with pytest.raises(sjpc.DataError, match=r"dataloader: batch 1 of shape \[6, 2\] cannot be run by the network"):
        sjpc.ParallelConverter([X, X.view(6, 2)], show_progress=False).convert(ann)
