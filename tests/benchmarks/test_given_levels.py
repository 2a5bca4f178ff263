"""Levels of an ONNX file beside those of the network: a fault in the file is seen, and rounding is none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from given_levels import FileWithLevels, NetworkWithLevels, distance_from_ties
from torch import Tensor, nn

import sj_parallel_conversion as sjpc

X = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(1))
pytestmark = pytest.mark.skipif(not hasattr(torch.onnx, "ops"), reason="export_onnx needs torch 2.8")


@pytest.fixture(scope="module")
def snn() -> sjpc.SpikingNetwork:
    """Two layers of neurons with 16 levels."""
    torch.manual_seed(0)
    ann = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
    options = {"mode": "spikepack", "time_steps": 4, "calibration": "none", "show_progress": False}
    return sjpc.ParallelConverter([X], **options).convert(ann.eval()).requires_grad_(False)


@pytest.fixture
def path(snn: sjpc.SpikingNetwork, tmp_path: Path) -> Path:
    sjpc.export_onnx(snn, tmp_path / "n.onnx")
    return tmp_path / "n.onnx"


def change(path: Path, what: Callable[[str, np.ndarray], np.ndarray]) -> None:
    """Other constants in a file."""
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        tensor.CopyFrom(onnx.numpy_helper.from_array(what(tensor.name, array), tensor.name))
    onnx.save(model, path)


def run(snn: sjpc.SpikingNetwork, path: Path, x: Tensor = X) -> tuple[float, list[float], float | None]:
    """The error of the output and of the currents with the levels of the file, and the distance from ties."""
    (found,), levels = FileWithLevels(path, path.parent).run(x)
    network = NetworkWithLevels(snn)
    output, errors = network.given(levels, x)
    return float(np.abs(found - output.numpy()).max()), errors, distance_from_ties(network.own(x)[1], levels)


def test_a_right_file(snn: sjpc.SpikingNetwork, path: Path) -> None:
    error, errors, distance = run(snn, path)
    assert error < 1e-5 and len(errors) == 2 and max(errors) < 1e-5 and (distance is None or distance < 1e-5)
    assert torch.equal(NetworkWithLevels(snn).own(X)[0], snn.predict(X))


def test_a_wrong_bias_is_seen_in_its_layer(snn: sjpc.SpikingNetwork, path: Path) -> None:
    change(path, lambda name, array: array + np.float32(0.3) if array.shape == (4,) and "bias" in name else array)
    error, errors, distance = run(snn, path)
    assert errors[0] < 1e-5 < 1e-3 < errors[1] and error < 1e-5  # what comes after the layer is right
    assert distance > 1e-3


def test_a_wrong_largest_level_is_seen(snn: sjpc.SpikingNetwork, path: Path) -> None:
    change(path, lambda name, array: np.float32(7) if array.shape == () and array == 15 else array)
    with pytest.raises(ValueError, match="neuron 0 of the file makes other levels of the same currents"):
        run(snn, path)


def test_distances_from_ties() -> None:
    def of(level: float, current: float) -> list[tuple[np.ndarray, np.ndarray]]:
        return [(np.array([8.0, current]), np.array([8.0, level]))]

    assert distance_from_ties(of(3, 3.5), of(3, 3.4)) is None
    assert distance_from_ties(of(3, 3.5), of(4, 4.0)) == pytest.approx(0.5 / 8)
    assert distance_from_ties(of(3, 3.001), of(2, 2.999)) == pytest.approx(0.001 / 8)
    assert distance_from_ties(of(3, 3.999), of(2, 2.999)) == pytest.approx(0.999 / 8)  # the tie between 2 and 3
    assert distance_from_ties(of(3, 3.0), of(5, 5.0)) == np.inf
    first = of(3, 3.001) + of(1, 1.5)
    assert distance_from_ties(first, of(2, 2.999) + of(7, 7.5)) == pytest.approx(0.001 / 8)  # the first alone counts
