"""What is no path is refused by name, before anything is computed or written."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import sj_parallel_conversion as sjpc


@pytest.fixture(scope="module")
def networks() -> tuple[sjpc.SpikingNetwork, nn.Module]:
    """A converted network and its ANN."""
    ann = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    return sjpc.ParallelConverter([torch.ones(2, 3)], show_progress=False).convert(ann), ann


@pytest.mark.parametrize("path", [None, 3, io.BytesIO(), b"name", ""])
@pytest.mark.parametrize(
    ("argument", "function"),
    [
        ("path", lambda snn, ann, path: sjpc.save(snn, path)),
        ("path", lambda snn, ann, path: sjpc.load(path)),
        ("path", lambda snn, ann, path: sjpc.export_onnx(snn, path)),
        ("folder", lambda snn, ann, path: sjpc.export_integers(snn, path)),
        ("folder", lambda snn, ann, path: sjpc.report(snn, ann, [torch.ones(2, 3)], path)),
        ("checkpoint", lambda snn, ann, path: sjpc.fine_tune(snn, ann, [torch.randn(9, 3)], checkpoint=path)),
    ],
)
def test_what_is_no_path(argument: str, function: Callable, path: object, networks: tuple) -> None:
    if (argument, path) == ("checkpoint", None):
        return  # nothing is kept
    with pytest.raises(sjpc.ConfigError, match=rf"{argument} must be a path, got"):
        function(*networks, path)


def test_what_is_no_model(networks: tuple, tmp_path: Path) -> None:
    sjpc.save(networks[0], tmp_path / "network")
    with pytest.raises(sjpc.ConfigError, match=r"model must be a .* or None, got int"):
        sjpc.load(tmp_path / "network", model=3)


@pytest.mark.parametrize(("name", "value"), [("rtol", -1), ("rtol", float("nan")), ("atol", "small"), ("atol", True)])
def test_what_is_no_tolerance(name: str, value: object, networks: tuple) -> None:
    with pytest.raises(sjpc.ConfigError, match=f"{name} must be a number >= 0"):
        sjpc.verify(*networks, torch.ones(2, 3), **{name: value})
