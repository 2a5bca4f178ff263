"""The line that a conversion ends with, and the warning where most of a network stayed analogue."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sj_parallel_conversion as sjpc

IMAGES = torch.randn(8, 3, 12, 12, generator=torch.Generator().manual_seed(0))


def spiking() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5),
    )  # fmt: skip


def mostly_analogue() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.GroupNorm(2, 8), nn.Conv2d(8, 32, 3), nn.Conv2d(32, 32, 3))


class HoldsItsSize(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3), nn.Linear(800, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.conv(x)).view(8, 800))


def convert(ann: nn.Module, show_progress: bool, **options: object) -> nn.Module:
    converter = sjpc.ParallelConverter([IMAGES], threshold="max", calibration="none", show_progress=show_progress)
    return converter.convert(ann, **options)


def test_says_how_much_became_spiking(capsys: pytest.CaptureFixture[str]) -> None:
    snn = convert(spiking(), True)
    (line,) = capsys.readouterr().out.splitlines()
    share = sjpc.inspect(snn, show=False)
    assert line.startswith("Converted: 2 layers of neurons, T = 8.")
    assert f"{share.share:.1%} of the multiply-accumulates" in line and "(100.0% behind the first layers)" in line
    assert "analogue" not in line and "Fixed" not in line


def test_says_nothing_without_progress(capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        convert(spiking(), False)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("show_progress", [True, False])
def test_warns_where_most_stayed_analogue(show_progress: bool, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.warns(UserWarning, match=r"only 0% of the multiply.*decoded values: 2 \(GroupNorm\).*3, 4 "):
        convert(mostly_analogue(), show_progress)
    assert ("spiking_inputs=True" in capsys.readouterr().out) == show_progress


def test_names_fixed_sizes(capsys: pytest.CaptureFixture[str]) -> None:
    convert(HoldsItsSize(), True)
    line = capsys.readouterr().out
    assert "Fixed sizes: batches of 8 alone, x.shape[2] = 12, x.shape[3] = 12." in line


def test_counts_parts(capsys: pytest.CaptureFixture[str]) -> None:
    convert(nn.Sequential(spiking(), nn.Identity()), True, submodules=["0"])
    assert "2 layers of neurons in 1 part, T = 8" in capsys.readouterr().out


class Attends(nn.Module):
    """Attention, and a recurrent layer."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 6), nn.Linear(6, 6), nn.GRU(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.b(x))
        return self.c(F.scaled_dot_product_attention(self.a(x), y, y))[0]


def test_says_what_can_be_done_about_analogue_operations(capsys: pytest.CaptureFixture[str]) -> None:
    converter = sjpc.ParallelConverter([torch.randn(8, 3, 6)], threshold="max", calibration="none")
    with pytest.warns(UserWarning, match="became accumulates"):
        converter.convert(Attends())
    line = capsys.readouterr().out
    assert "c (GRU) stay analogue" in line and "on the factors of a product." in line
    assert "register_activation" not in line
    with pytest.warns(UserWarning, match="became accumulates"):
        converter.convert(nn.Sequential(nn.Linear(6, 6), nn.ReLU(), Cumulates(), nn.Linear(6, 6)))
    line = capsys.readouterr().out
    assert "register_activation makes a function of one value known." in line and "of a product" not in line


class Cumulates(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.cummax(2).values
