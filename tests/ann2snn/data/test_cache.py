"""Values that wait in files are the values."""

from __future__ import annotations

import gc
import tempfile
from pathlib import Path

import nets
import pytest
import torch
from torch import nn

import sj_parallel_conversion as sjpc
from sj_parallel_conversion.ann2snn.data import cache
from sj_parallel_conversion.ann2snn.data.cache import GIB, Spool
from sj_parallel_conversion.ann2snn.data.memory import size_of


def files(spool: Spool) -> list[Path]:
    return [] if spool._folder is None else list(Path(spool._folder.name).iterdir())


@pytest.mark.parametrize("limit", [None, 0, 100 / GIB, 1, float("inf")])
def test_sequence(limit: float | None) -> None:
    values = [torch.arange(10), (torch.ones(2, 3), [torch.zeros(1)]), torch.randn(4, dtype=torch.bfloat16), (3, 4)]
    kept = Spool(limit).keep(values)
    assert len(kept) == 4
    for a, b in zip(kept, values, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    kept[0] = torch.tensor(5.0)
    assert kept[0] == 5


def test_files_come_and_go() -> None:
    spool = Spool(48 / GIB)
    first = spool.keep([torch.zeros(8), torch.zeros(8)])
    assert len(files(spool)) == 1  # 32 bytes fit, 64 do not
    second = spool.keep([torch.zeros(8)])
    assert len(files(spool)) == 2
    del first
    gc.collect()
    assert len(files(spool)) == 1 and torch.equal(second[0], torch.zeros(8))
    second[0] = torch.ones(8)  # there is room again
    assert not files(spool) and torch.equal(second[0], torch.ones(8))


def test_closed_while_values_are_held() -> None:
    spool = Spool(0)
    kept = spool.keep([torch.ones(3)])
    (file,) = files(spool)
    spool.close()
    assert not file.parent.exists()
    del kept  # finds nothing to remove, and does not mind
    assert torch.equal(spool.keep([torch.ones(3)])[0], torch.ones(3))


def test_values_are_taken_one_by_one() -> None:
    spool, seen = Spool(0), []

    def values():
        for i in range(3):
            seen.append(len(files(spool)))
            yield torch.full((2,), i)

    kept = spool.keep(values())
    assert seen == [0, 1, 2] and [int(x[0]) for x in kept] == [0, 1, 2]


@pytest.mark.parametrize("calibration", ["least_squares", "weights"])
@pytest.mark.parametrize("max_memory", [0, 20_000 / GIB])
def test_conversion_is_the_same(calibration: str, max_memory: float) -> None:
    ann, x = nets.net("in-place in branches")
    options = {"time_steps": 4, "calibration": calibration, "show_progress": False}
    plain = sjpc.ParallelConverter(list(x.split(2)), **options).convert(ann)
    spooled = sjpc.ParallelConverter(list(x.split(2)), **options, max_memory=max_memory).convert(ann)
    for (name, a), b in zip(plain.state_dict().items(), spooled.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_a_file_holds_a_view_and_not_what_it_is_a_view_of() -> None:
    spool = Spool(0)
    stored = [spool.put(part) for part in torch.randn(64, 1000).split(16)]
    assert all(file.path.stat().st_size < 2 * 16 * 1000 * 4 for file in stored)


def test_the_usual_limit_is_half_of_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(cache, "available_memory", lambda device: asked.append(device) or 4 * 32)
    spool = Spool(device=torch.device("cpu", 0))
    kept = spool.keep([torch.zeros(8)] * 3)
    assert len(files(spool)) == 1 and len(kept) == 3
    assert asked == [torch.device("cpu", 0)]
    unlimited = Spool(float("inf"))
    unlimited.keep([torch.zeros(8)] * 3)
    assert not files(unlimited) and len(asked) == 1


def convert(**options: object) -> sjpc.SpikingNetwork:
    torch.manual_seed(0)
    ann = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4)).eval()
    x = torch.randn(40, 6)
    return sjpc.ParallelConverter(list(x.split(10)), time_steps=2, show_progress=False, **options).convert(ann)


@pytest.mark.parametrize("calibration", ["da_qcfs", "least_squares", "weights"])
def test_one_limit_for_all_that_a_conversion_keeps(calibration: str, monkeypatch: pytest.MonkeyPatch) -> None:
    held, most = 0, 0
    put, drop = Spool.put, Spool.drop

    def count(sign: int, stored: object) -> None:
        nonlocal held, most
        held += sign * (0 if isinstance(stored, cache._File) else size_of(stored))
        most = max(most, held)

    def counted_put(self: Spool, value: object) -> object:
        stored = put(self, value)
        count(1, stored)
        return stored

    def counted_drop(self: Spool, stored: object) -> None:
        drop(self, stored)
        count(-1, stored)

    monkeypatch.setattr(Spool, "put", counted_put)
    monkeypatch.setattr(Spool, "drop", counted_drop)
    convert(calibration=calibration, distillation_epochs=1, max_memory=float("inf"))
    gc.collect()
    assert held == 0
    limit, most = most // 2, 0
    convert(calibration=calibration, distillation_epochs=1, max_memory=limit / GIB)
    assert 0.5 * limit < most <= limit


@pytest.mark.parametrize("calibration", ["da_qcfs", "least_squares", "weights"])
@pytest.mark.parametrize("fails", [False, True])
def test_no_file_is_left(calibration: str, fails: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: Spool, stored: object) -> object:
        assert list(tmp_path.iterdir())
        raise KeyboardInterrupt

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    if not fails:
        convert(calibration=calibration, distillation_epochs=1, max_memory=0)
        assert not list(tmp_path.iterdir())
        return
    monkeypatch.setattr(Spool, "get", interrupted)
    with pytest.raises(KeyboardInterrupt) as error:
        convert(calibration=calibration, max_memory=0)
    assert error.traceback and not list(tmp_path.iterdir())  # though the traceback holds values


@pytest.mark.parametrize("calibration", ["da_qcfs", "least_squares", "weights"])
def test_a_missing_folder_is_named(calibration: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with pytest.raises(sjpc.ConfigError, match=rf"folder {tmp_path}/missing: .*TMPDIR.*larger max_memory"):
        convert(calibration=calibration, max_memory=0)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("[enforce fail at inline")])
def test_a_full_folder_is_named(error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> None:
        raise error

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(sjpc.ConfigError, match=rf"folder {tmp_path}: it is full.*TMPDIR") as raised:
        convert(max_memory=0)
    assert raised.value.__cause__ is error and not list(tmp_path.iterdir())


def test_no_folder_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_usable(*args: object, **kwargs: object) -> None:
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", none_usable)
    monkeypatch.setattr(tempfile, "TemporaryDirectory", none_usable)
    monkeypatch.setenv("TMPDIR", "/read/only")
    with pytest.raises(sjpc.ConfigError, match=r"folder /read/only: .*No usable temporary directory"):
        Spool(0).keep([torch.zeros(1)])


def test_without_a_limit_of_the_user_s_it_is_a_fixed_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "_USUAL", 48)
    spool = Spool()
    kept = spool.keep([torch.zeros(8), torch.ones(8)])
    assert len(files(spool)) == 1 and torch.equal(kept[1], torch.ones(8))
    kept[1].add_(1)  # what is read is a copy
    assert torch.equal(kept[1], torch.ones(8))
