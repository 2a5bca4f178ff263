"""Values that wait in files are the values."""

from __future__ import annotations

import gc
from pathlib import Path

import nets
import pytest
import torch

import sj_parallel_conversion as sjpc
from sj_parallel_conversion.ann2snn.data.cache import GIB, Spool


def files(spool: Spool) -> list[Path]:
    return [] if spool._folder is None else list(Path(spool._folder.name).iterdir())


@pytest.mark.parametrize("limit", [None, 0, 100 / GIB, 1])
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
    assert all(path.stat().st_size < 2 * 16 * 1000 * 4 for path in stored)
