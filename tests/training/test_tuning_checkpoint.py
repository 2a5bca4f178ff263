"""A fine-tuning goes on from its checkpoint after a break, and refuses one of another run."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from fine_tuned import X, convert, same, tune
from torch.utils.data import DataLoader, TensorDataset

import sj_parallel_conversion as sjpc


@pytest.fixture(scope="module")
def converted() -> sjpc.SpikingNetwork:
    return convert()


def shuffled() -> DataLoader:
    return DataLoader(TensorDataset(X), 32, shuffle=True)


class Interrupted(Exception):
    pass


class Breaks:
    """A loader that breaks off at its third reading: the choice of held-out samples is the first."""

    def __init__(self, loader: DataLoader) -> None:
        self.loader, self.readings = loader, 0

    def __iter__(self) -> Iterator[object]:
        self.readings += 1
        for i, batch in enumerate(self.loader):
            if self.readings == 3 and i == 2:
                raise Interrupted
            yield batch


def test_goes_on_after_a_break(converted: sjpc.SpikingNetwork, tmp_path: Path) -> None:
    whole, broken, resumed = (copy.deepcopy(converted) for _ in range(3))
    torch.manual_seed(5)
    expected = tune(whole, shuffled(), epochs=4)
    torch.manual_seed(5)
    path = tmp_path / "run.pt"
    with pytest.raises(Interrupted):
        tune(broken, Breaks(shuffled()), epochs=4, checkpoint=path)
    torch.manual_seed(5)  # the choice of held-out samples reads the loader, which draws
    result = tune(resumed, shuffled(), epochs=4, checkpoint=path)
    assert result == expected and same(resumed, whole)
    again = copy.deepcopy(converted)
    assert tune(again, shuffled(), epochs=4, checkpoint=path) == expected and same(again, whole)


def test_checkpoints_of_other_runs(converted: sjpc.SpikingNetwork, tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    tune(copy.deepcopy(converted), epochs=1, checkpoint=path)
    content = path.read_bytes()
    for options, words in ({"epochs": 2}, "epochs=1 instead of 2"), ({"learning_rate": 0.1}, "learning_rate"):
        with pytest.raises(sjpc.FileError, match=words):
            tune(copy.deepcopy(converted), **{"epochs": 1, "checkpoint": path} | options)
    with pytest.raises(sjpc.FileError, match="parameters"):
        tune(convert(fold=False), epochs=1, checkpoint=path)
    for damaged in (content[:-100], b"", b"not a checkpoint"):
        path.write_bytes(damaged)
        with pytest.raises(sjpc.FileError, match="no checkpoint of fine_tune, or a damaged one"):
            tune(copy.deepcopy(converted), epochs=1, checkpoint=path)
    with pytest.raises(sjpc.FileError, match="there is no such folder"):
        tune(copy.deepcopy(converted), epochs=1, checkpoint=tmp_path / "none" / "run.pt")
