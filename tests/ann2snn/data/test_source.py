"""Dataloaders: read lazily, again and again, with one first batch; endless and failing ones say so."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable

import pytest
import torch
from loaders import OPTIONS, QUICK, Endless, Loader, OldStyle, OnlyOnce, X, mlp
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import sj_parallel_conversion as sjpc
from sj_parallel_conversion.ann2snn.data import source
from sj_parallel_conversion.ann2snn.data.batches import CalibrationData
from sj_parallel_conversion.ann2snn.data.source import Source, replayable


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
        Source(loader)
    assert "dataloader" in str(error.value)


@pytest.mark.parametrize("make", [list, tuple, lambda: iter([]), lambda: DataLoader(torch.zeros(0, 3))])
@pytest.mark.parametrize("read", [Source.first, list])
def test_empty_loaders(make: Callable, read: Callable) -> None:
    with pytest.raises(sjpc.DataError, match="dataloader is empty"):
        read(Source(make()))


@pytest.mark.parametrize(
    "make",
    [
        lambda: [X, X + 1, X + 2],
        lambda: (x for x in (X, X + 1, X + 2)),
        lambda: iter([X, X + 1, X + 2]),
        lambda: DataLoader(torch.cat([X, X + 1, X + 2]), batch_size=4),
        OldStyle,
    ],
    ids=["list", "generator", "iterator", "DataLoader", "getitem"],
)
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("most", [None, 1, 2, 7])
def test_batches_can_be_read_again(make: Callable, first: bool, most: int | None) -> None:
    batches = Source(make(), most)
    if first:
        assert torch.equal(batches.first(), X)
    for _ in range(3):
        assert [int(x[0, 0]) for x in batches] == [0, 1, 2][:most]
        assert torch.equal(batches.first(), X)


def test_what_can_be_read_again_is_left_as_it_is() -> None:
    for loader in ([X], DataLoader(TensorDataset(X)), OldStyle()):
        assert replayable(loader) is loader
    kept = replayable(iter([X]))
    assert replayable(kept) is kept
    assert all(torch.equal(x, X) for _ in range(2) for x in kept)


@pytest.mark.parametrize(("loader", "most", "length"), [
    ([X] * 4, None, 4), ([X] * 4, 3, 3), ([X] * 4, 9, 4), (Loader(), None, None), (Loader(), 3, None),
    (DataLoader(Endless()), 3, None),
])  # fmt: skip
def test_length(loader: object, most: int | None, length: int | None) -> None:
    assert Source(loader, most).length == length


def test_one_first_batch_which_begins_the_first_reading() -> None:
    loader = Loader()
    batches = Source(loader)
    first = batches.first()
    assert loader.given == 1
    assert next(iter(batches)) is first is batches.first()
    list(batches)
    assert batches.first() is first and loader.starts == 2


def test_no_more_is_read_than_asked_for() -> None:
    loader = Loader()
    batches = Source(loader, 2)
    assert len(list(batches)) == 2 and loader.given == 2


@pytest.mark.parametrize("submodules", [None, ["0"], ["0", "1"]])
def test_a_conversion_starts_a_loader_once_a_reading(submodules: list[str] | None) -> None:
    loader, ann = Loader(), nn.Sequential(mlp(), nn.Sequential(nn.Linear(2, 4), nn.ReLU())).eval()
    sjpc.ParallelConverter(loader, **QUICK).convert(ann, submodules=submodules)
    assert loader.starts == len(submodules or "1")


def test_suggestions_use_the_batch_that_the_capture_failed_on() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = mlp()

        def forward(self, x: Tensor) -> Tensor:
            return self.body(x) if x.sum() < 1e9 else x

    loader = Loader()
    with pytest.raises(sjpc.ConversionError, match=r"submodules=\['body'\]"):
        sjpc.ParallelConverter(loader, **QUICK).convert(Branching().eval())
    assert loader.given == 1


class WritesFirst(nn.Module):
    """A part that writes to its input, which nothing reads afterwards: other images have other outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.part = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(3, 3), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.part(x)


def test_images_are_compared_with_themselves() -> None:
    snn = sjpc.ParallelConverter(Loader(), **QUICK).convert(WritesFirst().eval(), submodules=["part"])
    assert list(snn.parts) == ["part"]


@pytest.mark.parametrize("find", [
    lambda loader: sjpc.convertible_submodules(mlp(), loader),
    lambda loader: sjpc.replace_activations(mlp(), sjpc.QCFS, loader, levels=4, v_threshold=1.0),
], ids=["convertible_submodules", "replace_activations"])  # fmt: skip
@pytest.mark.parametrize("kind", ["loader", "iterator", "endless"])
def test_where_one_batch_is_needed_one_is_read(find: Callable, kind: str) -> None:
    loader = Loader()
    find({"loader": loader, "iterator": iter(loader), "endless": itertools.cycle(loader)}[kind])
    assert loader.given == 1


def test_max_batches_makes_endless_data_finite() -> None:
    x, seen = torch.randn(8, 3), []
    endless = (seen.append(i) or x for i in itertools.count())
    a = sjpc.ParallelConverter(endless, max_batches=3, **OPTIONS).convert(mlp())
    assert len(seen) == 3
    b = sjpc.ParallelConverter(DataLoader(Endless(), batch_size=None), max_batches=1, **OPTIONS).convert(mlp())
    c = sjpc.ParallelConverter([x] * 3, **OPTIONS).convert(mlp())
    assert b.time_steps == 4
    assert all(torch.equal(p, q) for p, q in zip(a.state_dict().values(), c.state_dict().values(), strict=True))


def test_an_endless_iterator_is_an_error_that_names_the_option(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "_MOST_KEPT", 20)
    with pytest.raises(sjpc.DataError, match=r"no length, and 20 batches.*is an iterator.*max_batches"):
        sjpc.ParallelConverter(itertools.cycle([X]), **QUICK).convert(mlp())
    sjpc.ParallelConverter(itertools.cycle([X]), max_batches=25, **QUICK).convert(mlp())


def test_an_iterator_may_not_take_all_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "available_memory", lambda device: 10 * 2 * X.nbytes)
    assert len(list(Source(iter([X] * 10)))) == 10
    with pytest.raises(sjpc.DataError, match=r"The 10 so far take half of the memory.*max_batches"):
        list(Source(iter([X] * 11)))


def test_other_endless_data_are_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "_MANY", 20)
    with pytest.warns(UserWarning, match="no length, and 20 batches.*max_batches"):
        list(itertools.islice(Source(DataLoader(Endless(), batch_size=None)), 30))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        list(Source([X] * 30))
        list(Source(DataLoader(Endless(), batch_size=None), 30))
        list(Source(iter([X] * 19)))


@pytest.mark.parametrize("calibration", ["least_squares", "none"])
def test_what_can_be_read_once_only_is_called_that(calibration: str) -> None:
    convert = sjpc.ParallelConverter(OnlyOnce(), calibration=calibration, **OPTIONS).convert
    with pytest.raises(sjpc.DataError, match="can be read only once: the OnlyOnce gave"):
        convert(mlp())


def test_what_can_be_read_once_only_is_read_whole() -> None:
    assert len(list(Source(OnlyOnce()))) == 3
    batches = Source(OnlyOnce())
    batches.first()
    assert len(list(batches)) == 3


def test_a_progress_bar_knows_the_length(capsys: pytest.CaptureFixture) -> None:
    data = CalibrationData(Source([X] * 7, 5), nn.Linear(3, 2), torch.device("cpu"), None, True)
    list(data.batches("reading images"))
    assert "/5 [" in capsys.readouterr().err
