"""The script that saves and loads the zoo: it says exact where a file is right, and what is wrong where it is not."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import nn

pytest.importorskip("torchvision")
import zoo_files


def test_exact_and_what_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))
    monkeypatch.setattr(zoo_files, "build", lambda name: (small, (3, 8, 8)))
    path = tmp_path / "network.safetensors"
    zoo_files.write("small", path)
    images, outputs = torch.load(f"{path}.pt")
    with zoo_files.reader() as ask:
        assert ask(path) == "exact"
        outputs["spikes"][0][0, 0] += 1e-6
        torch.save((images, outputs), f"{path}.pt")
        assert ask(path) == "different in spikes"
        path.write_bytes(path.read_bytes()[:-8])
        assert ask(path).startswith("FileError")


def test_what_is_exact_is_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = tmp_path / "results.jsonl"
    results.write_text(json.dumps({"model": "alexnet", "file": "exact"}) + "\n")
    asked = []

    def write(name: str, path: Path) -> None:
        asked.append(name)
        raise RuntimeError("no memory\nmore")

    monkeypatch.setattr(zoo_files, "write", write)
    monkeypatch.setattr(zoo_files, "reader", lambda: nullcontext(None))
    zoo_files.run(["alexnet", "vgg11"], results)
    assert asked == ["vgg11"]
    assert json.loads(results.read_text().splitlines()[-1]) == {"model": "vgg11", "file": "RuntimeError: no memory"}
