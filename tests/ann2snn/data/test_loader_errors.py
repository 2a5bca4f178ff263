"""What a dataloader raises goes out as it is, and reading does not go on in silence afterwards."""

from __future__ import annotations

import traceback
from collections.abc import Iterator

import pytest
from loaders import OPTIONS, QUICK, Loader, X, mlp
from torch import Tensor, nn

import sj_parallel_conversion as sjpc

ERRORS = [ValueError, RuntimeError, OSError, KeyError, TypeError, IndexError, NotImplementedError, MemoryError]


@pytest.mark.parametrize("submodules", [None, ["0"]])
@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize(("start", "batch"), [(1, 0), (1, 3), (2, 2)])
def test_errors_of_the_loader_stay_as_they_are(
    start: int, batch: int, error: type[Exception], submodules: list | None
) -> None:
    def fail(*at: int) -> None:
        if at == (start, batch):
            raise error("cat 17 is bad")

    converter = sjpc.ParallelConverter(Loader(fails=fail), calibration="none", **OPTIONS)
    ann = nn.Sequential(mlp()).eval()
    with pytest.raises(error, match="cat 17 is bad") as raised:
        converter.convert(ann, submodules=submodules)
    assert type(raised.value) is error and raised.value.__cause__ is None
    (note,) = raised.value.__notes__
    assert f"dataloader itself, which was to give batch {batch}" in note
    assert note in "".join(traceback.format_exception(raised.value))


def test_an_error_while_distillation_reads_is_not_one_of_distillation() -> None:
    def fail(start: int, batch: int) -> None:
        if start == last[0] and batch == 1:
            raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed")

    last, loader = [0], Loader(fails=fail)
    converter = sjpc.ParallelConverter(loader, calibration="weights", distillation_epochs=1, **OPTIONS)
    converter.convert(mlp())
    last[0], loader.starts = loader.starts, 0
    with pytest.raises(RuntimeError, match="pid 7"):
        converter.convert(mlp())
    assert loader.starts == last[0]


def test_an_interruption_goes_out_and_an_iterator_does_not_go_on_in_silence() -> None:
    def batches() -> Iterator[Tensor]:
        yield X
        raise KeyboardInterrupt

    converter = sjpc.ParallelConverter(batches(), **QUICK)
    with pytest.raises(KeyboardInterrupt):
        converter.convert(mlp())
    with pytest.raises(sjpc.DataError, match="an error or an interruption has ended it"):
        converter.convert(mlp())


@pytest.mark.parametrize("calibration", ["none", "least_squares", "weights"])
def test_an_interruption_at_any_batch_goes_out(calibration: str) -> None:
    def stop(start: int, batch: int) -> None:
        seen.append((start, batch))
        if (start, batch) in stop_at:
            raise KeyboardInterrupt

    stop_at, seen = [], []
    options = OPTIONS | {"calibration": calibration}
    sjpc.ParallelConverter(Loader(2, stop), **options).convert(mlp())
    for at in seen[:]:
        stop_at[:] = [at]
        with pytest.raises(KeyboardInterrupt):
            sjpc.ParallelConverter(Loader(2, stop), **options).convert(mlp())
