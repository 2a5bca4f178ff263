"""The integer form: bytes for levels, int8 weights, and kernels for them in ONNX Runtime."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from exported import IMAGES, converted, needs_torch_2_8, onnx_run, residual, session, small
from torch import Tensor, nn

import sj_parallel_conversion as sjpc
from sj_parallel_conversion.export.integer_layers import integer_weight

pytestmark = needs_torch_2_8


def with_bytes(snn: sjpc.SpikingNetwork, max_level: int) -> sjpc.SpikingNetwork:
    """The network with its weights rounded as in the file, and biases that the file holds exactly."""
    for name, module in snn.net.named_modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)) and name not in ("stem", "0"):
            weight, scale = integer_weight(module, None, max_level)
            module.weight.copy_(weight.float() * scale.view(-1, *[1] * (weight.dim() - 1)))
            module.bias.copy_(((module.bias - 0.5) / scale).round() * scale + 0.5)
    return snn


def int8(snn: sjpc.SpikingNetwork) -> sjpc.SpikingNetwork:
    """``to_int8``, or no test where the machine has no kernels for it."""
    try:
        return sjpc.to_int8(snn)
    except sjpc.ConfigError as error:
        pytest.skip(str(error))


def optimised(path: Path) -> Counter:
    """The operators that ONNX Runtime runs."""
    session(path, path.with_suffix(".optimised.onnx"))
    return Counter(node.op_type for node in onnx.load(path.with_suffix(".optimised.onnx")).graph.node)


def test_a_chain_is_exact(tmp_path: Path) -> None:
    """Where weights and biases are those of the file, so are all levels, and the classifier's float output."""
    torch.manual_seed(0)
    ann = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 8, 2, groups=8), nn.ReLU(), nn.Flatten(), nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 5),
    ).eval()  # fmt: skip
    snn = with_bytes(converted(ann, IMAGES, time_steps=4, free_sizes=False), 15)
    sjpc.export_onnx(snn, tmp_path / "n.onnx", integers=True)
    expected = snn.predict(IMAGES)
    np.testing.assert_allclose(onnx_run(tmp_path / "n.onnx", IMAGES)[0], expected.numpy(), atol=1e-5, rtol=1e-4)
    kinds = {i.name: i.data_type for i in onnx.load(tmp_path / "n.onnx").graph.initializer}
    assert list(kinds.values()).count(onnx.TensorProto.INT8) >= 4
    found = optimised(tmp_path / "n.onnx")
    assert (found["QLinearConv"], found["MatMulInteger"], found["Conv"] + found["FusedConv"]) == (2, 2, 1), found


@pytest.mark.parametrize(("time_steps", "in_bytes"), [(6, 2), (7, 3)])
def test_a_shortcut_is_close(time_steps: int, in_bytes: int, tmp_path: Path) -> None:
    """With fewer than 128 levels the layer before the addition stays in float32, and the result is that of to_int8."""
    snn = converted(residual(), IMAGES, time_steps=time_steps)
    sjpc.export_onnx(snn, tmp_path / "n.onnx", integers=True)
    found, expected = onnx_run(tmp_path / "n.onnx", IMAGES)[0], snn.predict(IMAGES).numpy()
    assert np.abs(found - expected).mean() < 0.1 * np.abs(expected - expected.mean(0)).mean()
    assert optimised(tmp_path / "n.onnx")["QLinearConv"] == in_bytes
    if time_steps == 6:
        assert np.median(np.abs(found - int8(snn).predict(IMAGES).numpy())) < 1e-5
    for x in (IMAGES[:1], IMAGES[:3]):
        np.testing.assert_allclose(onnx_run(tmp_path / "n.onnx", x)[0], found[: len(x)], atol=1e-5)


def test_channels_without_weights_keep_their_bias(tmp_path: Path) -> None:
    """As in pruned networks: the bias has no room in steps of weights that are almost 0."""
    torch.manual_seed(0)
    ann = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.ReLU(), nn.Flatten(),
        nn.Linear(288, 5),
    ).eval()  # fmt: skip
    with torch.no_grad():
        for i, weight in enumerate((0.0, 1e-38, 1e-12)):
            ann[2].weight[i], ann[2].bias[i] = weight, 0.7
    x = IMAGES[:, :, :10, :10]
    snn = converted(ann, x, time_steps=6)
    sjpc.export_onnx(snn, tmp_path / "n.onnx", integers=True)
    found, expected = onnx_run(tmp_path / "n.onnx", x)[0], snn.predict(x).numpy()
    assert np.linalg.norm(found - expected) < 0.1 * np.linalg.norm(expected)


@pytest.mark.parametrize("bias", [True, False])
def test_currents_that_are_added_up(bias: bool, tmp_path: Path) -> None:
    """Projections of inverted bottlenecks, which no neuron follows, have the int8 weights that they have in to_int8."""

    class Bottlenecks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 1)
            self.expand = nn.ModuleList(nn.Conv2d(4, 8, 1) for _ in range(2))
            self.project = nn.ModuleList(nn.Conv2d(8, 4, 3, padding=1, bias=bias) for _ in range(2))

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            for expand, project in zip(self.expand, self.project, strict=True):
                x = x + project(expand(x).relu())
            return self.head(x).mean((2, 3))

    torch.manual_seed(0)
    snn = converted(Bottlenecks().eval(), IMAGES, time_steps=6)
    sjpc.export_onnx(snn, tmp_path / "n.onnx", integers=True)
    (found,) = onnx_run(tmp_path / "n.onnx", IMAGES)
    np.testing.assert_allclose(found, int8(snn).predict(IMAGES).numpy(), atol=1e-5)
    assert np.abs(found - snn.predict(IMAGES).numpy()).max() > 1e-4  # which the rounding of weights has changed
    kinds = [(i.data_type, len(i.dims)) for i in onnx.load(tmp_path / "n.onnx").graph.initializer]
    assert kinds.count((onnx.TensorProto.INT8, 4)) == 2


@pytest.mark.parametrize(("time_steps", "bits"), [(7, 8), (8, 7)])
def test_sums_of_two_products_fit_into_16_bits(time_steps: int, bits: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    ann = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    x = torch.randn(64, 6)
    snn = converted(ann, x, time_steps=time_steps)
    sjpc.export_onnx(snn, tmp_path / "n.onnx", integers=True)
    (weight,) = (i for i in onnx.load(tmp_path / "n.onnx").graph.initializer if i.data_type == onnx.TensorProto.INT8)
    assert np.abs(onnx.numpy_helper.to_array(weight).astype(int)).max() == {8: 127, 7: 64}[bits]
    np.testing.assert_allclose(onnx_run(tmp_path / "n.onnx", x)[0], snn.predict(x).numpy(), atol=0.02)


@pytest.mark.parametrize(
    "options", [{"fold": False}, {"time_steps": 9}, {"mode": "css", "time_steps": 9}]
)
def test_no_layer_with_bytes(options: dict[str, object], tmp_path: Path) -> None:
    ann = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    snn = converted(ann, torch.randn(16, 6), **options)
    with pytest.raises(sjpc.ConfigError, match="no layer could have int8 weights"):
        sjpc.export_onnx(snn, tmp_path / "n.onnx", integers=True)


def test_levels_that_others_read(tmp_path: Path) -> None:
    """Levels leave the network, and are read by an analogue operation beside a layer."""

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            x = self.a(x).relu()
            return self.b(x) + x.softmax(1)[:, :3], x

    torch.manual_seed(0)
    x = torch.randn(32, 6)
    snn = converted(Two().eval(), x)
    sjpc.export_onnx(snn, tmp_path / "n.onnx", integers=True)
    for found, expected in zip(onnx_run(tmp_path / "n.onnx", x), snn.predict(x), strict=True):
        np.testing.assert_allclose(found, expected.numpy(), atol=0.02)


def test_packed_weights(tmp_path: Path) -> None:
    snn = small()
    for network, name in ((snn, "a.onnx"), (sjpc.prepack(snn), "b.onnx")):
        sjpc.export_onnx(network, tmp_path / name, integers=True)
    outputs = [onnx_run(tmp_path / name, IMAGES)[0] for name in ("a.onnx", "b.onnx")]
    assert np.array_equal(*outputs)
    with pytest.raises(sjpc.ConfigError, match="layer 'conv1' has the int8 weights of to_int8"):
        sjpc.export_onnx(sjpc.to_int8(snn), tmp_path / "c.onnx", integers=True)
