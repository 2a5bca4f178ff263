"""No calibration gives a network that is worse than that of a cheaper one."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, fx, nn

import sj_parallel_conversion as sjpc
from sj_parallel_conversion.ann2snn.calibration import CALIBRATIONS
from sj_parallel_conversion.ann2snn.calibration.judge import Judge


def network() -> nn.Module:
    torch.manual_seed(0)
    sizes = [(3, 8), (8, 8)]
    layers = [m for size in sizes for m in (nn.Conv2d(*size, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())]
    return nn.Sequential(*layers, nn.AvgPool2d(2), nn.Flatten(), nn.Linear(128, 5)).eval()


def images(n: int = 128, seed: int = 1) -> Tensor:
    return torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def convert(calibration: str, n: int = 128, ann: nn.Module | None = None, **options: object) -> sjpc.SpikingNetwork:
    options = {"time_steps": 4, "show_progress": False, "calibration": calibration} | options
    return sjpc.ParallelConverter(list(images(n).split(32)), **options).convert(network() if ann is None else ann)


def assert_same(a: nn.Module, b: nn.Module) -> None:
    first, second = a.state_dict(), b.state_dict()
    assert first.keys() == second.keys()
    assert all(torch.equal(value, second[name]) for name, value in first.items())


@pytest.fixture
def harmful(monkeypatch: pytest.MonkeyPatch) -> Iterator[set[str]]:
    """The calibrations that the test names double the last weights at the end."""
    chosen: set[str] = set()

    def spoilt(name: str, calibrate: object) -> object:
        def run(ann: fx.GraphModule, snn: fx.GraphModule, *rest: object) -> None:
            calibrate(ann, snn, *rest)
            if name in chosen:
                snn.get_submodule("8").weight.data *= 2

        return run

    for name, calibrate in CALIBRATIONS.items():
        monkeypatch.setitem(CALIBRATIONS, name, spoilt(name, calibrate))
    yield chosen


@pytest.mark.parametrize(
    ("asked", "bad", "kept"),
    [
        ("weights", {"weights"}, "least_squares"),
        ("weights", {"weights", "least_squares"}, "da_qcfs"),
        ("weights", {"weights", "least_squares", "da_qcfs"}, "none"),
        ("least_squares", {"least_squares"}, "da_qcfs"),
        ("least_squares", {"least_squares", "da_qcfs"}, "none"),
    ],
)
def test_the_better_network_is_kept_with_a_word(asked: str, bad: set[str], kept: str, harmful: set[str]) -> None:
    harmful |= bad
    found = r"on 16 held-out images the relative squared error of the outputs is \d\S* instead of \d"
    with pytest.warns(UserWarning, match=f"calibration='{asked}' does worse than '{kept}' here: {found}"):
        snn = convert(asked, distillation_epochs=0)
    assert snn.config.calibration == kept
    harmful.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert_same(snn, convert(kept, distillation_epochs=0))


@pytest.mark.parametrize("calibration", ["none", "da_qcfs"])
def test_published_methods_stay_what_they_are(
    calibration: str, harmful: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    harmful.add("da_qcfs")
    monkeypatch.setattr(Judge, "of", None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert convert(calibration).config.calibration == calibration


@pytest.mark.parametrize("calibration", ["least_squares", "weights"])
@pytest.mark.parametrize("n", [1, 2, 4, 31])
def test_few_images_judge_nothing_and_say_nothing(calibration: str, n: int, harmful: set[str]) -> None:
    harmful |= {"least_squares", "weights"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert convert(calibration, n, distillation_epochs=0).config.calibration == calibration


@pytest.mark.parametrize("calibration", ["least_squares", "weights"])
def test_trained_quantisers_are_not_judged(calibration: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Judge, "of", None)
    ann = sjpc.replace_activations(network(), sjpc.QCFS, levels=4)
    snn, x = convert(calibration, ann=ann), images(seed=2)
    plain = convert("none", ann=ann)
    with torch.no_grad():
        assert torch.equal(snn.predict(x), plain.predict(x))


@pytest.mark.parametrize("calibration", ["least_squares", "weights"])
def test_a_good_calibration_is_kept_in_silence(calibration: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert convert(calibration, 256, time_steps=2).config.calibration == calibration


def test_parts_of_a_model_are_judged_each(harmful: set[str]) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = network()

        def forward(self, x: Tensor) -> list[Tensor]:
            return [y for y in self.body(x) if y.sum() > -1e9]

    harmful.add("weights")
    converter = sjpc.ParallelConverter(list(images().split(32)), calibration="weights", show_progress=False)
    with pytest.warns(UserWarning, match="does worse than 'least_squares'"):
        snn = converter.convert(Model().eval(), submodules=["body"])
    assert snn.parts["body"].config.calibration == "least_squares"


class Blobs(nn.Module):
    """Finds what is bright. Where it is, all channels have their largest value."""

    def __init__(self) -> None:
        super().__init__()
        self.copy, self.add = nn.Conv2d(1, 8, 1, bias=False), nn.Conv2d(8, 1, 1)
        nn.init.ones_(self.copy.weight)
        nn.init.constant_(self.add.weight, 10 / 8)
        nn.init.constant_(self.add.bias, -6.5)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.add(torch.relu(self.copy(x))))


def blobs(n: int = 96) -> Tensor:
    x = 0.3 * torch.rand(n, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    x[torch.arange(n), 0, torch.arange(n) % 32, 7 * torch.arange(n) % 32] = 1
    return x


@pytest.mark.parametrize("calibration", ["none", "da_qcfs", "least_squares", "weights"])
def test_high_scores_are_not_clipped_away(calibration: str) -> None:
    ann, x = Blobs().eval(), blobs()
    options = {"time_steps": 8, "calibration": calibration, "show_progress": False}
    with pytest.warns(UserWarning, match="threshold='mse' keeps the scores of this network worse than 'max'"):
        snn = sjpc.ParallelConverter(list(x.split(16)), **options).convert(ann)
    assert snn.config.threshold == "max"
    with torch.no_grad():
        torch.testing.assert_close(snn.predict(x).amax((1, 2, 3)), ann(x).amax((1, 2, 3)), rtol=0, atol=0.05)


@pytest.mark.parametrize("n", [31, 96])
def test_thresholds_stay_where_scores_do_not_gain(n: int) -> None:
    """Too few images say nothing, and at many levels nothing is clipped."""
    options = {"time_steps": 8 if n < 32 else 64, "calibration": "none", "show_progress": False}
    assert sjpc.ParallelConverter([blobs(n)], **options).convert(Blobs().eval()).config.threshold == "mse"
