"""Captures that tests share: what makes two of them one, and what does not."""

from __future__ import annotations

import copy

import pytest
import shared_captures
import torch
from captured import CPU, data_of
from torch import Tensor, nn

X = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))


def network(tied: bool = False) -> nn.Sequential:
    torch.manual_seed(0)
    ann = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU()).eval()
    ann[2].weight = ann[0].weight if tied else nn.Parameter(ann[0].weight.detach().clone())
    return ann


def key_of(ann: nn.Module, x: Tensor = X, free_sizes: bool | None = None) -> bytes | None:
    return shared_captures._key(ann, data_of(ann, x), CPU, free_sizes)


def test_equal_models_have_one_key_and_others_have_another() -> None:
    changed, training, hooked = network(), network().train(), network()
    changed[2].bias.data[0] += 1e-6
    hooked[0].register_forward_hook(print)
    others = [key_of(ann) for ann in (changed, training, hooked, network(tied=True), network().double())]
    others += [key_of(network(), X + 1e-6), key_of(network(), X[:3]), key_of(network(), free_sizes=False)]
    assert key_of(network()) == key_of(copy.deepcopy(network())) is not None
    assert None not in others and len({key_of(network()), *others}) == 1 + len(others)


def test_what_cannot_be_pickled_has_none() -> None:
    ann = network()
    ann[0].register_forward_hook(lambda module, args, y: None)
    assert key_of(ann) is None


def test_a_copy_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, ann = [], network()
    ann[0].weight.data += 0.125  # as in no other test
    original = shared_captures.original
    monkeypatch.setattr(shared_captures, "original", lambda *args: calls.append(args) or original(*args))
    first, second, third = (shared_captures.graph_of(ann, data_of(ann, X), CPU)[0] for _ in range(3))
    assert len(calls) == 1
    next(first.parameters()).data.zero_()
    next(second.parameters()).data.zero_()
    assert torch.equal(third(X)[0], ann(X))
