"""The exports of a trained ResNet-20, on CIFAR-10 images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import run_integers
from exported import needs_torch_2_8, onnx_run, session
from given_levels import FileWithLevels, NetworkWithLevels, distance_from_ties
from helpers.cifar10 import load_resnet
from torch import Tensor

import sj_parallel_conversion as sjpc


@pytest.fixture(scope="module")
def resnet(cifar_data: Path, cifar_train: tuple[Tensor, Tensor]) -> sjpc.SpikingNetwork:
    """Converted with 256 levels, in packed execution; not to be changed."""
    ann = load_resnet("resnet20", cifar_data / "weights" / "resnet20_cifar10.pt")
    options = {"mode": "spikepack", "time_steps": 8, "calibration": "none", "show_progress": False}
    snn = sjpc.ParallelConverter([cifar_train[0][:64]], **options).convert(ann)
    snn.execution = "packed"
    return snn


@pytest.fixture(scope="module")
def images(cifar_test: tuple[Tensor, Tensor]) -> Tensor:
    """The first 200 test images."""
    return cifar_test[0][:200]


@pytest.fixture(scope="module")
def expected(resnet: sjpc.SpikingNetwork, images: Tensor) -> np.ndarray:
    """What the network says of them."""
    return resnet.predict(images).numpy()


def agreement(one: np.ndarray, other: np.ndarray) -> float:
    """How many images get the same class, in per cent."""
    return 100 * float((one.argmax(1) == other.argmax(1)).mean())


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    """As a share of the largest value."""
    return np.abs(found - expected).max() / np.abs(expected).max()


def test_to_torch(resnet: sjpc.SpikingNetwork, images: Tensor, expected: np.ndarray) -> None:
    np.testing.assert_allclose(sjpc.to_torch(resnet)(images).numpy(), expected, rtol=1e-5, atol=1e-5)


@needs_torch_2_8
def test_onnx(resnet: sjpc.SpikingNetwork, images: Tensor, expected: np.ndarray, tmp_path: Path) -> None:
    """Levels differ on ties alone, and where they are equal all currents and outputs are."""
    sjpc.export_onnx(resnet, tmp_path / "n.onnx")
    assert agreement(onnx_run(tmp_path / "n.onnx", images)[0], expected) >= 99
    file, network = FileWithLevels(tmp_path / "n.onnx", tmp_path), NetworkWithLevels(resnet)
    for x in images[:50].split(1):
        (found,), levels = file.run(x)
        output, errors = network.given(levels, x)
        assert relative_error(found, output.numpy()) < 1e-5 and len(errors) == 19 and max(errors) < 1e-5
        output, own = network.own(x)
        distance = distance_from_ties(own, levels)
        assert relative_error(found, output.numpy()) < 1e-5 if distance is None else distance < 1e-5


@needs_torch_2_8
def test_onnx_integers(resnet: sjpc.SpikingNetwork, images: Tensor, expected: np.ndarray, tmp_path: Path) -> None:
    sjpc.export_onnx(resnet, tmp_path / "n.onnx", integers=True)
    found = onnx_run(tmp_path / "n.onnx", images)[0]
    assert agreement(found, expected) >= 99
    session(tmp_path / "n.onnx", tmp_path / "optimised.onnx")
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    assert kinds.count("QLinearConv") == 18 and kinds.count("Conv") + kinds.count("FusedConv") == 1
    try:
        int8 = sjpc.to_int8(resnet)
    except sjpc.ConfigError:  # no kernels for this machine
        return
    assert agreement(found, int8.predict(images).numpy()) >= 99


def test_integers(resnet: sjpc.SpikingNetwork, images: Tensor, expected: np.ndarray, tmp_path: Path) -> None:
    sjpc.export_integers(resnet, tmp_path)
    _, outputs = run_integers.run(tmp_path, x=images[:100].numpy())
    assert agreement(outputs["output"], expected[:100]) >= 99
