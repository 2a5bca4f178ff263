"""The zoo's script, on small networks of torchvision: they convert, and what it writes can be read again."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

pytest.importorskip("torchvision")
import zoo


@pytest.mark.parametrize("name", ["shufflenet_v2_x0_5", "mobilenet_v3_small", "lraspp_mobilenet_v3_large"])
def test_converts(name: str) -> None:
    line = zoo.measure(name, ["css, T=8, bias 1"])
    assert line["packed_equals_spikes"] and line["layers"] > 30
    assert line["errors"]["css, T=8, bias 1"] < 0.01


def test_rounding_alone_has_the_error_of_the_conversion() -> None:
    errors = zoo.measure("mobilenet_v3_small", ["css, T=8", "rounded ANN", "bfloat16 ANN"])["errors"]
    assert errors["css, T=8"] == pytest.approx(errors["rounded ANN"], rel=0.2)
    assert errors["css, T=8"] < errors["bfloat16 ANN"]


def test_results_are_merged_and_not_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def measure(name: str, columns: list[str]) -> dict[str, object]:
        calls.append((name, columns))
        if name == "vgg11" and len(calls) < 4:
            raise RuntimeError("out of memory\nmore")
        line = {"model": name, "family": zoo.family_of(name), "input": [3, 8, 8]}
        line["errors"] = dict.fromkeys(columns, 0.012)
        if columns == ["rounded ANN"]:
            return line
        return {**line, "layers": 2, "activations": ["ReLU"], "packed_equals_spikes": columns != ["css, T=12"]}

    monkeypatch.setattr(zoo, "measure", measure)
    results = tmp_path / "out" / "zoo.jsonl"
    zoo.run_all(["vgg11", "alexnet", "r3d_18"], ["css, T=8"], results)
    assert [name for name, _ in calls] == ["r3d_18", "alexnet", "vgg11"]  # small ones first
    zoo.run_all(["vgg11", "alexnet"], ["css, T=8", "css, T=12"], results)
    assert calls[3:] == [("alexnet", ["css, T=12"]), ("vgg11", ["css, T=8", "css, T=12"])]
    zoo.run_all(["r3d_18", "alexnet", "resnet18"], ["rounded ANN"], results)
    text = zoo.table(zoo.read(results))
    assert "## classification: 2 of" in text and "## segmentation: 0 of" in text
    assert "| alexnet * | 3x8x8 | 2 | ReLU | 1.2 |  |  | 1.2 |  |  |  | 1.2 |" in text
    assert "| resnet18 | 3x8x8 |  |  |  |  |  |  |  |  |  | 1.2 |" in text
    assert "| css, T=8 | 3 | 0 | 3 | 1 (1, 1) |" in text and "| bfloat16 ANN | 0 | 0 | 0 |  |" in text


def test_failures_stand_in_the_table() -> None:
    assert "out of memory" in zoo.table([{"model": "vgg11", "family": "classification", "failed": "out of memory"}])


@torch.no_grad()
def test_statistics_of_a_plain_pass() -> None:
    """With its own momentum a BatchNorm is on its way from what it begins with to the statistics of the images."""
    model, x = nn.Sequential(nn.BatchNorm2d(3)), torch.randn(2, 3, 8, 8) + 10
    zoo.wake(model, x, own_momentum=True)
    assert torch.allclose(model[0].running_var, torch.ones(3), atol=0.3) and (model[0].running_mean.abs() < 1).all()
    zoo.wake(model, x)
    assert torch.allclose(model[0].running_mean, x.mean((0, 2, 3)))
    assert not model.training and not model[0].training
