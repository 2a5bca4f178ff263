"""The ImageNet table: folders' names are classes, and each setting gets a line."""

from __future__ import annotations

import re
from pathlib import Path

import imagenet
import pytest
import torch

Image = pytest.importorskip("PIL.Image")

MODEL = """
import torch
from torch import nn

def brightest():  # the class is the channel with the largest mean
    net = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 9))
    with torch.no_grad():
        net[0].weight.copy_(torch.eye(3).view(3, 3, 1, 1))
        net[0].bias.fill_(3.0)
        net[4].weight.zero_()
        net[4].bias.zero_()
        for channel, label in enumerate((2, 5, 8)):
            net[4].weight[label, channel] = 1.0
    return net
"""


def folder(root: Path, images: int) -> str:
    """Images of one colour each, in folders named after the classes."""
    for channel, label in enumerate((2, 5, 8)):
        (root / f"{label:03}").mkdir(parents=True)
        for i in range(images):
            colour = [20 * i] * 3
            colour[channel] = 250
            Image.new("RGB", (20, 16), tuple(colour)).save(root / f"{label:03}" / f"{i}.png")
    return str(root)


@pytest.fixture
def options(tmp_path: Path) -> list[str]:
    (tmp_path / "model.py").write_text(MODEL)
    data = ["--calibration-data", folder(tmp_path / "a", 4), "--test-data", folder(tmp_path / "b", 3)]
    return ["--model", f"{tmp_path / 'model.py'}:brightest", *data, "--image-size", "8", "--resize-size", "8"]


def test_the_table(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    settings = ["--settings", "css:mse:least_squares", "parallel:max:da_qcfs", "--time-steps", "6", "8", "--draws", "2"]
    imagenet.main([*options, *settings, "--images", "9", "--interpolation", "bicubic"])
    lines = capsys.readouterr().out.splitlines()
    assert any("ANN 100.00 %" in line for line in lines)
    assert "| mode, threshold, calibration | T=6 | T=8 |" in lines
    first, second = lines[-2:]
    assert first.startswith("| css, mse, least_squares | 100.00 (100.00), ")
    assert second.startswith("| parallel, max, da_qcfs | ") and len(re.findall(r"\(\d+\.\d\d\), \d+", second)) == 2


def test_the_papers_networks_keep_their_first_relu(options: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(imagenet, "run", lambda args, *rest: calls.append(rest))
    imagenet.main(["--icml2025", *options[2:6]])
    assert [name for name, *_ in calls] == [f"torchvision:resnet{n}" for n in (18, 34, 50, 101)]
    assert all(rest == ["IMAGENET1K_V1", ("relu",), (8, 16, 32, 64)] for _, *rest in calls)


@pytest.mark.parametrize("wrong", [["--icml2025"], ["--settings", "mse:weights"]])
def test_what_cannot_be_meant_is_refused(
    options: list[str], wrong: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        imagenet.parse_arguments([*options, *wrong])
    assert "--icml2025" in capsys.readouterr().err


def test_the_classes_of_a_network() -> None:
    data = [(torch.eye(3), torch.arange(3)), (torch.eye(3)[1:2], torch.tensor([1]))]
    assert imagenet.classes(lambda x: x, data, torch.device("cpu")).tolist() == [0, 1, 2, 1]
