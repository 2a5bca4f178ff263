"""What the benchmark says of small networks, of which each result is known."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable

import pytest
import torch
from model_zoo import Batch, Entry
from model_zoo.measure import _limited, measure, relative_error, wake
from torch import Tensor, nn

import sj_parallel_conversion as sjpc


class Kept(nn.Module):
    """A module that a test registers to stay whole, with an activation in it."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x)


class Chooses(nn.Module):
    """Its control flow depends on values, so only what stands in submodules can be converted."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) if x.sum() > -1e9 else x


def entry(build: Callable[[], nn.Module], parts: tuple[str, ...] = ()) -> Entry:
    def batch(n: int) -> Batch:
        return torch.randn(n, 4)

    return Entry("here", "net", build, batch, parts)


def test_whole() -> None:
    line = measure(entry(lambda: nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4))), limit=60)
    assert (line.result, line.neurons, line.calls, line.left, line.why) == ("whole", 1, 1, "", [])
    assert line.share == 0.5
    assert 0 < line.error < 1e-4


def test_incomplete_says_which_activation_has_no_neuron() -> None:
    sjpc.register_leaf(Kept)
    net = [nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), Kept(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)]
    line = measure(entry(lambda: nn.Sequential(*net)), limit=60)
    assert (line.result, line.calls, line.left) == ("incomplete", 3, "1 of 2 tanh (3)")


@pytest.mark.parametrize("parts", [(), ("body",)])
def test_parts(parts: tuple[str, ...]) -> None:
    line = measure(entry(Chooses, parts), limit=60)
    assert (line.result, line.neurons, line.left, len(line.why)) == ("parts", 1, "", 0 if parts else 1)
    assert 0 < line.error < 1e-4


def test_fails_says_why() -> None:
    def build() -> nn.Module:
        raise RuntimeError("no such model\nsecond line")

    line = measure(entry(build), limit=60)
    assert (line.result, line.why) == ("fails", ["RuntimeError: no such model"])
    assert math.isnan(line.error)


def test_the_time_limit_is_an_error_inside_and_nothing_outside() -> None:
    before = signal.getsignal(signal.SIGALRM)
    with pytest.raises(TimeoutError, match="more than 60 s"), _limited(60):
        signal.raise_signal(signal.SIGALRM)
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.alarm(0) == 0


def test_waking_fills_zeros_and_leaves_the_momentum() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)), torch.randn(16, 4) + 10
    nn.init.zeros_(model[0].weight)
    wake(model, x)
    assert model[0].weight.abs().min() > 0
    torch.testing.assert_close(model[1].running_mean, model[0](x).mean(0))
    assert model[1].momentum == 0.1 and not model.training and not model[1].training


def test_error_is_of_all_floating_outputs() -> None:
    reference = {"scores": torch.tensor([3.0, 4.0]), "labels": torch.tensor([1]), "more": (torch.tensor([0.0]),)}
    outputs = {"scores": torch.tensor([3.0, 4.0]), "labels": torch.tensor([2]), "more": (torch.tensor([5.0]),)}
    assert relative_error(outputs, reference) == 1.0
