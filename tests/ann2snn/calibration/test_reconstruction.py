"""Reconstruction brings blocks nearer to the ANN's, and what would do harm leaves no trace."""

from __future__ import annotations

import copy
import warnings
from functools import cache

import pytest
import torch
from torch import Tensor, nn

import sj_parallel_conversion as sjpc
from sj_parallel_conversion.ann2snn.calibration import block_fit


class Residual(nn.Module):
    """Two residual blocks and a head."""

    def __init__(self, head: nn.Module | None = None) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.first, self.second = (nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1) for _ in range(2)) for _ in range(2))
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 5)) if head is None else head

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        for a, b in (self.first, self.second):
            x = (x + b(a(x).relu())).relu()
        return self.head(x)


def network(head: nn.Module | None = None) -> nn.Module:
    torch.manual_seed(1)
    return Residual(head).eval()


def images(n: int = 128, seed: int = 2) -> Tensor:
    return torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def convert(ann: nn.Module, x: Tensor, **options: object) -> sjpc.SpikingNetwork:
    options = {"time_steps": 2, "calibration": "reconstruction", "show_progress": False} | options
    return sjpc.ParallelConverter(list(x.split(48)), **options).convert(ann)


def error(snn: sjpc.SpikingNetwork, ann: nn.Module, x: Tensor) -> float:
    with torch.no_grad():
        y = ann(x)
        return float((snn.predict(x) - y).square().mean() / y.var())


def same(first: nn.Module, second: nn.Module) -> bool:
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.filterwarnings("ignore:the network is that of calibration='weights'")
@pytest.mark.parametrize(("options", "share"), [({}, 0.97), ({"mode": "spikepack", "fold": False}, 1.02)])
def test_brings_unseen_outputs_nearer(options: dict, share: float) -> None:
    ann, x, unseen = network(), images(), images(seed=3)
    before = copy.deepcopy(ann.state_dict())
    options = {"distillation_epochs": 0} | options
    cheaper, reconstructed = (convert(ann, x, calibration=name, **options) for name in ("weights", "reconstruction"))
    assert reconstructed.config.calibration == "reconstruction"
    assert error(reconstructed, ann, unseen) <= share * error(cheaper, ann, unseen)
    assert all(torch.equal(value, before[name]) for name, value in ann.state_dict().items())
    flags = [{name: p.requires_grad for name, p in snn.named_parameters()} for snn in (cheaper, reconstructed)]
    assert flags[0] == flags[1] and all(p.grad is None for p in [*ann.parameters(), *reconstructed.parameters()])


def test_is_deterministic_streams_and_takes_new_weights() -> None:
    ann, x = network(), images(48)
    first, streamed = (convert(ann, x, **options) for options in ({}, {"max_memory": 0}))
    assert same(first, streamed)
    outputs = first.predict(x)
    first.load_ann(ann)
    assert torch.allclose(first.predict(x), outputs, atol=1e-5)


@cache
def cheaper(half: bool) -> nn.Module:
    return convert(*inputs(half), calibration="weights", distillation_epochs=0)


def inputs(half: bool) -> tuple[nn.Module, Tensor]:
    ann, x = network(), images(48)
    return (ann.bfloat16(), x.bfloat16()) if half else (ann, x)


def assert_as_weights(why: str, half: bool = False) -> None:
    with pytest.warns(UserWarning, match=why):
        found = convert(*inputs(half), distillation_epochs=0)
    assert same(found, cheaper(half))


def test_blocks_that_steps_make_worse_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_fit, "_RATE", 30.0)
    assert_as_weights("does not make the outputs better")


def test_what_held_out_images_do_not_confirm_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    def train(fit: block_fit.BlockFit, weights: list[nn.Parameter], *args: object) -> None:
        for weight in weights:
            weight.data.mul_(3)

    monkeypatch.setattr(block_fit.BlockFit, "train", train)
    assert_as_weights("does not make the outputs better.*held-out")


def test_lack_of_memory_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise torch.cuda.OutOfMemoryError("too large")

    monkeypatch.setattr(block_fit.BlockFit, "train", fail)
    assert_as_weights("too large")


def test_half_precision_is_said() -> None:
    assert_as_weights("half precision", half=True)


def test_trained_quantisers_stay_to_the_bit() -> None:
    ann, x = network(), images(48)
    trained = sjpc.replace_activations(ann, sjpc.QCFS, [x], levels=2).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        snn = convert(trained, x)
    assert torch.equal(snn.predict(x), trained(x))


def test_kept_layers_stay() -> None:
    ann, x = network(), images(48)
    options = {"fold": False, "distillation_epochs": 0, "keep": ["head.*", "first.0"]}
    cheaper, found = (convert(ann, x, calibration=name, **options) for name in ("weights", "reconstruction"))
    pairs = zip(cheaper.named_parameters(), found.parameters(), strict=True)
    changed = {name for (name, a), b in pairs if not torch.equal(a, b) and name.endswith("weight")}
    assert changed == {"net.first.1.weight", "net.second.0.weight", "net.second.1.weight"}


def test_an_outlier_does_not_decide() -> None:
    ann, x, unseen = network(), images(), images(seed=3)
    broken = x.clone()
    broken[100] *= 1e4
    errors = [error(convert(ann, data), ann, unseen) for data in (x, broken)]
    assert errors[1] < 1.3 * errors[0]


def test_other_outputs_than_classes_and_few_images() -> None:
    ann, x = network(nn.Conv2d(8, 2, 1)), images(48)
    cheaper, found = (convert(ann, x, calibration=name) for name in ("weights", "reconstruction"))
    assert error(found, ann, images(seed=3)) < error(cheaper, ann, images(seed=3))
    assert convert(ann, images(5)).predict(x).shape == (48, 2, 8, 8)
