"""The scripts on segmentation and detection: weights from a file, and what they print."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

pytest.importorskip("torchvision")
import detection
import segmentation
from helpers.torchvision_models import load, settle_batchnorms


def saved(model: nn.Module, folder: Path) -> str:
    torch.save(model.state_dict(), folder / "weights.pth")
    return str(folder / "weights.pth")


@pytest.mark.parametrize("aux", [False, True])
def test_weights_from_a_file(aux: bool, tmp_path: Path) -> None:
    name = "deeplabv3_mobilenet_v3_large"
    model = load(name, None, num_classes=3, aux_loss=aux)
    again = load(name, saved(model, tmp_path), num_classes=3)
    assert not again.training and again.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in model.state_dict().items())


def test_weights_of_another_number_of_classes(tmp_path: Path) -> None:
    weights = saved(load("lraspp_mobilenet_v3_large", None, num_classes=3), tmp_path)
    with pytest.raises(RuntimeError, match="size mismatch"):
        load("lraspp_mobilenet_v3_large", weights, num_classes=4)


@torch.no_grad()
def test_settled_batchnorms_normalise() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, momentum=0.001), nn.ReLU(), nn.BatchNorm2d(4))
    batches = [torch.randn(16, 3, 8, 8) * 5 + 1 for _ in range(3)]
    settle_batchnorms(model.train(), batches)
    y = model(torch.cat(batches)).transpose(0, 1).flatten(1)
    assert not model.training and y.mean(1).abs().max() < 0.05 and (y.std(1) - 1).abs().max() < 0.05


@pytest.mark.parametrize(
    ("script", "name", "says"),
    [
        (segmentation, "lraspp_mobilenet_v3_large", "of pixels as in the ANN"),
        (detection, "fasterrcnn_mobilenet_v3_large_320_fpn", "3 parts"),
    ],
)
def test_scripts_run_with_a_weights_file(
    script: object, name: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    weights = saved(load(name, None, num_classes=4), tmp_path)
    options = f"--model {name} --weights {weights} --images 1 --size 64 --mode css --calibration none".split()
    monkeypatch.setattr(sys, "argv", ["script", *options])
    script.main()
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"{name}, css, T=8: ") and says in line
