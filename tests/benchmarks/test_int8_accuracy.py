"""The script that measures int8 networks: models by name, and views of images."""

from __future__ import annotations

from pathlib import Path

import int8_accuracy
import numpy as np
import pytest
import torch

pytestmark = pytest.mark.skipif(
    not (torch.backends.mkldnn.is_available() and hasattr(torch.ops.onednn, "qconv2d_pointwise")), reason="no oneDNN"
)
MODEL = """
import torch
from torch import nn

def small():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)
    ).eval()
"""


def test_views() -> None:
    images = torch.arange(2 * 16).view(2, 1, 4, 4)
    one, mirrored = int8_accuracy.views(images, 0)
    assert torch.equal(one, images) and torch.equal(mirrored, images.flip(3))
    shifted = list(int8_accuracy.views(images.float(), 1))
    assert len(shifted) == 18 and torch.equal(shifted[4], images.float())
    assert torch.equal(shifted[8][:, :, :3, :3], images.float()[:, :, 1:, 1:])


def test_a_line_for_each_setting(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "model.py").write_text(MODEL)
    generator = np.random.default_rng(0)
    images, labels = generator.normal(size=(40, 3, 8, 8)).astype(np.float32), np.arange(40) % 3
    np.savez(tmp_path / "data.npz", images=images, labels=labels)
    data = str(tmp_path / "data.npz")
    int8_accuracy.main([
        "--model", f"{tmp_path / 'model.py'}:small", "--calibration-data", data, "--test-data", data, "--shift", "0",
        "--settings", "parallel:8", "css:4", "--calibration", "none", "--test-images", "20",
    ])  # fmt: skip
    *_, header, one, two, three, four = capsys.readouterr().out.splitlines()
    assert header.split()[:3] == ["mode", "T", "int8"]
    assert [line.split()[:3] for line in (one, two, three, four)] == [
        ["parallel", "8", "levels"], ["parallel", "8", "all"], ["css", "4", "levels"], ["css", "4", "all"]
    ]  # fmt: skip
    assert all(float(line.split()[-1]) > 80 for line in (one, two, three, four)), "the same classes"


def test_data_are_needed(capsys: pytest.CaptureFixture[str]) -> None:
    for options, missing in (([], "--data-root"), (["--model", "x:y", "--test-data", "z"], "--calibration-data")):
        with pytest.raises(SystemExit):
            int8_accuracy.parse_arguments(options)
        assert missing in capsys.readouterr().err
