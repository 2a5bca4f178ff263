"""Layers with int8 weights: exact integer arithmetic, on machines that add in 16 bits as well."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nets
import pytest
import torch
from torch import Tensor, nn

import sj_parallel_conversion as sjpc
from sj_parallel_conversion.ann2snn.cpu import int8_layers
from sj_parallel_conversion.ann2snn.cpu.int8_layers import Int8Conv2d, Int8Layer, Int8Linear

pytestmark = pytest.mark.skipif(
    not (torch.backends.mkldnn.is_available() and hasattr(torch.ops.onednn, "qconv2d_pointwise")), reason="no oneDNN"
)


@pytest.mark.parametrize(
    "layer",
    [nn.Conv2d(4, 6, 3, stride=2, padding=1), nn.Conv2d(4, 4, 3, groups=4, bias=False, dilation=2), nn.Linear(4, 6)],
)
@torch.no_grad()
def test_integer_arithmetic_is_exact(layer: nn.Module) -> None:
    """Weights that are multiples of 1/127 of the largest lose nothing, so sums differ by float rounding alone."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randint(-127, 128, layer.weight.shape, generator=generator).float()
    weight.flatten(1)[:, 0] = 127
    layer.weight.copy_(weight / 64)
    linear = isinstance(layer, nn.Linear)
    if layer.bias is not None:
        layer.bias.copy_((layer.bias * 64).round() / 64)  # of convolutions, biases are whole steps
    # with larger levels weights have 7 bits on machines without VNNI
    levels = torch.randint(0, 128, (5, 4) if linear else (5, 4, 9, 9), generator=generator).float()
    twin = (Int8Linear if linear else Int8Conv2d)(layer, 127)
    torch.testing.assert_close(twin(levels).contiguous(), layer(levels), rtol=1e-5, atol=1e-3)
    for copied in (copy.deepcopy(twin), pickle.loads(pickle.dumps(twin))):
        assert torch.equal(copied(levels), twin(levels))


def largest_products(kind: str) -> tuple[nn.Module, Tensor]:
    """A layer whose weights are all the largest, and levels that are, too."""
    layer = nn.Linear(64, 5, bias=False) if kind == "linear" else nn.Conv2d(16, 5, 3, bias=False)
    signs = torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0]).view(-1, *[1] * (layer.weight.dim() - 1))
    layer.weight.data.copy_(torch.full_like(layer.weight, 0.37) * signs)
    return layer, torch.full((3, 64) if kind == "linear" else (3, 16, 6, 6), 255.0)


def assert_integer_arithmetic(twin: nn.Module, levels: Tensor) -> None:
    """The result is that of integers, in float64, whose products are added without an end."""
    weight = twin.weight.double()
    sums = nn.functional.linear(levels.double(), weight) if levels.dim() == 2 else (
        nn.functional.conv2d(levels.double(), weight)
    )
    scale = twin.scale.double().view(-1, *[1] * (sums.dim() - 2))
    torch.testing.assert_close(twin(levels).double().contiguous(), sums * scale, rtol=1e-6, atol=0)


@pytest.mark.parametrize("kind", ["linear", "conv"])
@pytest.mark.parametrize("wide", [True, False])
@torch.no_grad()
def test_largest_values(kind: str, wide: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if wide and not int8_layers.adds_in_32_bits():
        pytest.skip("this machine adds in 16 bits")
    layer, levels = largest_products(kind)
    monkeypatch.setattr(int8_layers, "adds_in_32_bits", lambda: wide)
    twin = (Int8Linear if kind == "linear" else Int8Conv2d)(layer)
    assert twin.weight.abs().max() == (127 if wide else 64)
    assert 2 * 64 * 255 <= 32767 < 2 * 65 * 255, "as much as two products may be"
    assert_integer_arithmetic(twin, levels)


@torch.no_grad()
def test_weights_from_another_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, levels = largest_products("linear")
    monkeypatch.setattr(int8_layers, "adds_in_32_bits", lambda: True)
    saved = pickle.dumps(Int8Linear(layer))
    monkeypatch.setattr(int8_layers, "adds_in_32_bits", lambda: False)
    here = pickle.loads(saved)
    products = []
    pack = int8_layers._pack_linear
    monkeypatch.setattr(int8_layers, "_pack_linear", lambda weight, x: products.append(weight) or pack(weight, x))
    torch.testing.assert_close(here(levels), layer(levels), rtol=0.02, atol=0)
    assert products[0].abs().max() == 64 and here.weight.abs().max() == 127


_ON_AN_OLDER_CPU = """
import torch
from test_int8_layers import (
    CONVOLUTIONS, Int8Conv2d, Int8Linear, assert_integer_arithmetic, assert_rounds_to_bytes, int8_layers,
    largest_products,
)
assert not int8_layers.adds_in_32_bits()
with torch.no_grad():
    for kind, layer_type in (("linear", Int8Linear), ("conv", Int8Conv2d)):
        layer, levels = largest_products(kind)
        assert_integer_arithmetic(layer_type(layer), levels)
    for conv in CONVOLUTIONS:
        assert_rounds_to_bytes(conv, 2)
"""


@pytest.mark.skipif(not torch.backends.cpu.get_cpu_capability().startswith("AVX"), reason="no x86 CPU with AVX2")
def test_kernels_of_an_older_cpu() -> None:
    """oneDNN takes those of AVX2, which add in 16 bits."""
    paths = [str(Path(__file__).parent), str(Path(nets.__file__).parent), *filter(None, sys.path)]
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2", "PYTHONPATH": os.pathsep.join(paths)}
    subprocess.run([sys.executable, "-c", _ON_AN_OLDER_CPU], env=environment, check=True)


def slow(layer: Int8Layer, x: Tensor) -> Tensor:
    """What a convolution with int8 weights computes, of integers in float64."""
    scale, zero_point = layer.code
    steps = x.double() if layer.reads is None else (x.double() / scale + zero_point + 0.5).floor().clamp(0, 255)
    sums = nn.functional.conv2d(steps - zero_point, layer.weight.double(), None, *layer.form)
    currents = sums * (layer.scale.double() * scale).view(-1, 1, 1)
    return currents if layer.bias is None else currents + layer.bias.double().view(-1, 1, 1)


CONVOLUTIONS = [
    nn.Conv2d(3, 8, 7, stride=2, padding=3),
    nn.Conv2d(8, 8, 3, padding=1, groups=8),
    nn.Conv2d(8, 12, 3, padding=(0, 2), dilation=2, groups=4, bias=False),
    nn.Conv2d(8, 40, 1),
]


def assert_rounds_to_bytes(conv: nn.Conv2d, size: int) -> None:
    """Floats that are whole steps lose nothing, and zeros of the padding stay zeros."""
    generator = torch.Generator().manual_seed(0)
    layer = Int8Conv2d(conv, 255, torch.tensor([0.25, 100.0]))
    steps = torch.randint(-150, 200, (size, conv.in_channels, 11, 13), generator=generator)
    x = steps.float() * 0.25  # below and above the range, too
    expected = slow(layer, x)
    for given in (x, x.contiguous(memory_format=torch.channels_last), x.double()):
        torch.testing.assert_close(layer(given).double().contiguous(), expected, rtol=1e-5, atol=1e-4)
    for copied in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(copied(x), layer(x)) and copied.code == (0.25, 100)


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("conv", CONVOLUTIONS)
@torch.no_grad()
def test_floats_are_rounded_to_bytes(conv: nn.Conv2d, size: int) -> None:
    assert_rounds_to_bytes(conv, size)


@torch.no_grad()
def test_rounds_to_the_nearest_step() -> None:
    conv = nn.Conv2d(1, 1, 1, bias=False)
    conv.weight.fill_(1.0)
    layer = Int8Conv2d(conv, 255, torch.tensor([0.5, 10.0]))
    x = torch.tensor([-9.0, -5.0, -0.26, -0.24, 0.0, 0.24, 0.26, 1.1, 122.5, 130.0])
    expected = torch.tensor([-5.0, -5.0, -0.5, 0.0, 0.0, 0.0, 0.5, 1.0, 122.5, 122.5])
    torch.testing.assert_close(layer(x.view(1, 1, 1, -1)).flatten(), expected, rtol=1e-6, atol=0)


@torch.no_grad()
def test_bytes_of_unknown_meaning_are_refused() -> None:
    layer = Int8Conv2d(nn.Conv2d(3, 4, 1), 255, torch.tensor([1.0, 0.0]))
    with pytest.raises(sjpc.DataError, match=r"reads floats was given torch\.uint8"):
        layer(torch.zeros(1, 3, 4, 4, dtype=torch.uint8))
    with pytest.raises(sjpc.DataError, match="for CPUs"):
        layer(torch.zeros(1, 3, 4, 4, device="meta"))


@torch.no_grad()
def test_a_code_is_loaded_with_the_weights() -> None:
    conv, x = nn.Conv2d(3, 4, 3), torch.randn(2, 3, 6, 6)
    first = Int8Conv2d(conv, 255, torch.tensor([0.05, 128.0]))
    second = Int8Conv2d(nn.Conv2d(3, 4, 3), 255, torch.tensor([9.0, 3.0]))
    second(x)  # has prepared its weights
    second.load_state_dict(first.state_dict())
    assert torch.equal(second(x), first(x))
    assert "reads" not in Int8Conv2d(conv).state_dict(), "levels need no code"


@pytest.mark.parametrize("make", [lambda: nn.Linear(4, 6), lambda: nn.Conv2d(4, 6, 1)])
@torch.no_grad()
def test_channels_without_weights_keep_their_bias(make: Callable[[], nn.Module]) -> None:
    """Pruned channels, and weights that are so small that their steps count the bias beyond 32 bits."""
    layer = make()
    for channel, weight in enumerate((0.0, 1e-45, 1e-38, 1e-20, 1e-9)):
        layer.weight[channel], layer.bias[channel] = weight, 0.7
    levels = torch.full((2, 4) if isinstance(layer, nn.Linear) else (2, 4, 1, 1), 3.0)
    twin = (Int8Linear if isinstance(layer, nn.Linear) else Int8Conv2d)(layer)
    torch.testing.assert_close(twin(levels), layer(levels), rtol=0.01, atol=0.01)


@torch.no_grad()
def test_the_largest_sums_have_32_bits() -> None:
    layer, levels = nn.Linear(150_000, 2), torch.full((1, 150_000), 255.0)
    layer.weight[0], layer.weight[1] = 1.0, -1.0
    torch.testing.assert_close(Int8Linear(layer)(levels), layer(levels), rtol=0.01, atol=0)
    assert Int8Linear(nn.Linear(50_000, 2)).weight.abs().amax() == int8_layers.largest_weight(255), "there was room"


@torch.no_grad()
def test_no_samples_have_a_shape() -> None:
    layer = Int8Linear(nn.Linear(8, 6))
    assert layer(torch.zeros(0, 5, 8)).shape == (0, 5, 6) and layer(torch.zeros(2, 0, 8)).shape == (2, 0, 6)
