"""Held-out samples are never trained on, however the loader orders them."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from sj_parallel_conversion.analysis.answers import Network
from sj_parallel_conversion.training.tuning_data import TuningData


def data(loader: object, held_out: object = None, seed: int = 0) -> TuningData:
    return TuningData(Network(nn.Linear(2, 2)), loader, held_out, seed, show_progress=False)


def rows(samples: object) -> list[tuple]:
    return [tuple(row.tolist()) for sample in samples for row in sample.call.args[0]]


def numbered(n: int) -> Tensor:
    return torch.stack([torch.arange(n), torch.arange(n) + 0.5], 1)


@given(n=st.integers(8, 70), size=st.integers(1, 20), seed=st.integers(0, 9))
@settings(max_examples=30, deadline=None)
def test_each_sample_is_trained_on_or_held_out(n: int, size: int, seed: int) -> None:
    x = numbered(n)
    loader = DataLoader(TensorDataset(x, torch.arange(n)), size, shuffle=True)
    found = data(loader, seed=seed)
    held = rows(found.held)
    assert len(held) in (n // 8, n // 8 + 1)
    for _ in range(2):
        samples = list(found.epoch())
        assert sorted(rows(samples) + held) == sorted(rows(found.held + samples)) == sorted(map(tuple, x.tolist()))
        for sample in [*samples, *found.held]:  # targets stay with their inputs
            assert torch.equal(sample.target, sample.call.args[0][:, 0].long()) and len(sample.target) == sample.size


def test_copies_are_not_trained_on() -> None:
    found = data([numbered(16), numbered(16)])
    held = set(rows(found.held))
    assert held and not held & set(rows(found.epoch()))


def test_the_seed_chooses() -> None:
    chosen = [rows(data([numbered(64)], seed=seed).held) for seed in (0, 0, 1)]
    assert chosen[0] == chosen[1] != chosen[2]


def test_at_most_512() -> None:
    found = data(list(numbered(6000).split(500)))
    assert 512 <= len(rows(found.held)) < 600


def test_held_out_data_of_their_own() -> None:
    found = data([numbered(16)], [numbered(4) + 100])
    assert len(rows(found.held)) == 4 and len(rows(found.epoch())) == 16 and found.batches == 1


def test_iterators_are_kept() -> None:
    found = data(iter([numbered(16)]))
    assert len(rows(found.epoch())) == len(rows(found.epoch())) == 14
