"""Which layers are corrected, and what the corrections see."""

from __future__ import annotations

import copy
import sys
import warnings

import pytest
import torch
from torch import Tensor, nn

import sj_parallel_conversion as sjpc
from sj_parallel_conversion.ann2snn.calibration.judge import Judge
from sj_parallel_conversion.ann2snn.calibration.least_squares import FitNeurons
from sj_parallel_conversion.ann2snn.calibration.regression import fit_change
from sj_parallel_conversion.ann2snn.calibration.weights import CorrectWeights


class Block(nn.Module):
    """A residual block, the sum of whose branches can be written in several ways."""

    def __init__(self, how: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.from_input, self.last = nn.Linear(6, 8), nn.Linear(8, 8)
        self.head, self.relu = nn.Linear(8, 3), nn.ReLU()
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        h = self.relu(self.stem(x))
        z = self.b(torch.relu(self.a(h)))
        if self.how == "alpha":
            z = torch.add(h, z, alpha=3)
        elif self.how == "times":
            z = h + 3 * z
        elif self.how == "doubled":
            z = z + z
        elif self.how == "twice":
            z = 2 * z
        elif self.how == "two layers":
            z = z + self.last(h)
        elif self.how == "input branch first":
            z = self.from_input(x) + z
        elif self.how == "input branch last":
            z = z + self.from_input(x)
        else:
            z = h + z
        return self.head(self.relu(z))


def images(n: int = 64) -> Tensor:
    return torch.randn(n, 6, generator=torch.Generator().manual_seed(1))


def convert(ann: nn.Module, x: Tensor, calibration: str = "weights", **options: object) -> nn.Module:
    options = {"time_steps": 2, "calibration": calibration, "show_progress": False, "distillation_epochs": 0} | options
    return sjpc.ParallelConverter([x], **options).convert(ann.eval())


@torch.no_grad()
def error(snn: nn.Module, ann: nn.Module, x: Tensor) -> float:
    y = ann(x)
    return float((snn.predict(x) - y).square().sum() / (y - y.mean(0)).square().sum())


@pytest.mark.parametrize(("how", "same"), [("alpha", "times"), ("doubled", "twice")])
@torch.no_grad()
def test_scaled_sums_are_no_plain_additions(how: str, same: str) -> None:
    x = images()
    snns = [convert(Block(h), x) for h in (how, same)]
    torch.testing.assert_close(snns[0].predict(x), snns[1].predict(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("how", "corrects", "does_not"),
    [
        ("plain", "b", "from_input"),
        ("input branch first", "b", "from_input"),
        ("input branch last", "b", "from_input"),
        ("two layers", "last", "b"),
    ],
)
@torch.no_grad()
def test_the_branch_that_can_take_the_error_back_does(
    how: str, corrects: str, does_not: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Judge, "of", lambda *args: None)  # so small a network may do as well without a correction
    ann, x = Block(how), images(256)  # with few the held-out ones may speak against any change
    found = changed(ann, convert(ann, x, fold=False, shortcut="spikes"))
    assert f"{corrects}.weight" in found and f"{does_not}.weight" not in found


def changed(ann: nn.Module, snn: sjpc.SpikingNetwork) -> set[str]:
    spiking = dict(snn.net.named_parameters())
    return {name for name, p in ann.named_parameters() if name in spiking and not torch.equal(p, spiking[name])}


class TwoBlocks(nn.Module):
    """What ``b`` gives is read by a neuron and by the shortcut around the second block."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.head = nn.Linear(6, 16), nn.Linear(16, 3)
        self.a, self.b, self.c, self.d = (nn.Linear(16, 16) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        x = (x + self.b(self.a(x).relu())).relu()
        x = (self.d(self.c(x).relu()) + x).relu()
        return self.head(x)


@pytest.mark.parametrize("shortcut", ["spikes", "membrane"])
@torch.no_grad()
def test_layers_whose_value_a_shortcut_carries_on_are_corrected(shortcut: str) -> None:
    ann, x, unseen = TwoBlocks(), images(512), torch.randn(512, 6, generator=torch.Generator().manual_seed(2))
    snn = convert(ann, x, fold=False, shortcut=shortcut)
    assert {f"{layer}.weight" for layer in "abcd"} <= changed(ann, snn)
    fitted = convert(ann, x, "least_squares", shortcut=shortcut)
    assert error(snn, ann, unseen) < 0.8 * error(fitted, ann, unseen)


@pytest.mark.parametrize("calibration", ["none", "least_squares", "weights"])
@pytest.mark.parametrize("fold", [False, True])
@torch.no_grad()
def test_hooks_that_change_an_output_are_part_of_the_network(calibration: str, fold: bool) -> None:
    plain, x = Block("plain"), images(256)
    hooked = copy.deepcopy(plain)
    hooked.a.register_forward_hook(lambda module, args, output: output + 1)
    plain.a.bias += 1  # the same network
    errors = [error(convert(ann, x, calibration, time_steps=4, fold=fold), ann, x) for ann in (plain, hooked)]
    assert errors[1] < 1.3 * errors[0] + 0.01


@torch.no_grad()
@pytest.mark.parametrize("how", ["sum", "two layers", "input branch first"])
def test_neurons_are_fitted_to_the_currents_of_the_corrected_layers(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x, seen, original = images(24), {}, FitNeurons.before

    def before(self: FitNeurons, node: torch.fx.Node, ann_input: list[Tensor], snn_input: list[Tensor]) -> None:
        if node.target in self.sites:
            seen[node.target] = torch.cat(list(snn_input)).clone()
        original(self, node, ann_input, snn_input)

    monkeypatch.setattr(FitNeurons, "before", before)
    snn = convert(Block(how).requires_grad_(False), x, fold=False)
    currents = {}
    for name in seen:
        neuron = snn.net.get_submodule(name)
        neuron.register_forward_pre_hook(lambda _, args, name=name: currents.update({name: args[0]}))
    snn.execution = "packed"
    snn.predict(x)
    assert len(seen) >= 3
    for name, value in seen.items():
        torch.testing.assert_close(currents[name], value, rtol=1e-4, atol=1e-5)


def test_only_what_a_rectifier_follows_is_fitted_to_its_positive_part(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {}

    def spy(layer: nn.Module, *args: object) -> Tensor | None:
        seen[tuple(layer.weight.shape)] = args[4]
        return fit_change(layer, *args)

    monkeypatch.setattr(sys.modules[CorrectWeights.__module__], "fit_change", spy)
    sizes = [nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 7), nn.ReLU(), nn.Linear(7, 9), nn.GELU(), nn.Linear(9, 1)]
    convert(nn.Sequential(*sizes).requires_grad_(False), images(24))
    assert seen == {(7, 8): True, (9, 7): False, (1, 9): False}


@pytest.mark.parametrize("show_progress", [False, True])
def test_the_bar_of_layers_is_drawn_if_it_is_asked_for(
    show_progress: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    convert(Block("sum").requires_grad_(False), images(24), show_progress=show_progress)
    assert ("calibrate layers" in capsys.readouterr().err) == show_progress


def test_copies_of_few_images_do_no_harm() -> None:
    torch.manual_seed(3)
    sizes = [(3, 32), (32, 32), (32, 32)]
    layers = [module for size in sizes for module in (nn.Conv2d(*size, 3, padding=1), nn.ReLU())]
    ann = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(128, 5))
    torch.manual_seed(0)
    few, unseen = torch.randn(4, 3, 8, 8), torch.randn(128, 3, 8, 8)
    errors = [error(convert(ann, x), ann, unseen) for x in (few, few.repeat(16, 1, 1, 1))]
    assert errors[1] < 1.2 * errors[0]


def normalised(count: int) -> nn.Module:
    """Four activations, of which ``count`` follow a normalisation of each image, which is no layer to correct."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for i in range(4):
        layers += [nn.Linear(6, 6), nn.LayerNorm(6) if i < count else nn.Identity(), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(6, 3)).eval()


@pytest.mark.parametrize("count", [0, 1, 3, 4])
def test_what_is_out_of_reach_is_said(count: int) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        convert(normalised(count), images())
    found = [str(w.message) for w in caught if "corrects no layer" in str(w.message)]
    assert len(found) == (count == 4)  # the first neuron has no error before it
    assert not found or "before 3 of 4 neurons (5, 8, 11)" in found[0]
