"""Scaling layers through their weights: every kind of layer, groups, memory layout, tied weights."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, weight_norm

from sj_parallel_conversion.ann2snn.graph import scaling as layers

LAYERS = {
    **{f"conv {d}d": getattr(nn, f"Conv{d}d")(4, 6, 3, padding=1) for d in (1, 2, 3)},
    **{f"transposed {d}d": getattr(nn, f"ConvTranspose{d}d")(4, 6, 3, padding=1) for d in (1, 2, 3)},
    "groups": nn.Conv2d(4, 6, 3, groups=2),
    "depthwise": nn.Conv2d(4, 8, 3, groups=4, bias=False),
    "transposed groups": nn.ConvTranspose2d(4, 6, 3, groups=2),
    "reflect": nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"),
    "linear": nn.Linear(4, 6),
    "linear, no bias": nn.Linear(4, 6, bias=False),
}


def example(name: str, layer: nn.Module) -> Tensor:
    dims = 0 if isinstance(layer, nn.Linear) else layer.weight.dim() - 2
    return torch.randn(2, 4, *[5] * dims, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def along_channels(vector: Tensor, x: Tensor) -> Tensor:
    return vector.view(-1, *[1] * (x.dim() - 2))


@pytest.mark.parametrize("name", LAYERS)
@torch.no_grad()
def test_scaling(name: str) -> None:
    layer = LAYERS[name].double()
    x, y, weight = example(name, layer), layer(example(name, layer)), layer.weight
    before = weight.clone()
    factor_in, factor_out = torch.rand(4).double() + 0.5, torch.rand(y.shape[1]).double() + 0.5
    offset = torch.randn(y.shape[1]).double()
    layers.scale_input(layer, factor_in)
    layers.scale_output(layer, factor_out, offset)
    expected = along_channels(factor_out, y) * y + along_channels(offset, y)
    torch.testing.assert_close(layer(x / along_channels(factor_in, x)), expected)
    layers.scale_output(layer, torch.tensor(2.0).double(), torch.tensor(1.0).double())
    torch.testing.assert_close(layer(x / along_channels(factor_in, x)), 2 * expected + 1)
    assert torch.equal(weight, before), "the old weight may be tied to another layer"


@torch.no_grad()
def test_batchnorm_takes_an_output_scale_only() -> None:
    norm, x = nn.BatchNorm2d(4).eval(), torch.randn(2, 4, 3, 3)
    norm.running_mean.normal_(), norm.weight.uniform_(0.5, 1)
    y, factor = norm(x), torch.rand(4) + 0.5
    assert layers.takes_output_scale(norm) and not layers.takes_input_scale(norm)
    layers.scale_output(norm, factor, torch.tensor(0.5))
    torch.testing.assert_close(norm(x), y * along_channels(factor, x) + 0.5)


@torch.no_grad()
def test_memory_layout_and_flags_are_kept() -> None:
    conv = nn.Conv2d(4, 6, 3).to(memory_format=torch.channels_last).requires_grad_(False)
    layers.scale_input(conv, torch.rand(4))
    layers.scale_output(conv, torch.rand(6), torch.rand(6))
    assert conv.weight.is_contiguous(memory_format=torch.channels_last) and not conv.weight.is_contiguous()
    assert not conv.weight.requires_grad and not conv.bias.requires_grad


class Doubling(nn.Conv2d):
    """Does with its weight what it wants."""

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.weight / self.weight.norm(), None)


@pytest.mark.parametrize(
    "layer",
    [
        Doubling(4, 6, 3), parametrizations.weight_norm(nn.Linear(4, 6)), nn.Bilinear(4, 4, 2), nn.ReLU(),
        nn.BatchNorm2d(4, affine=False), nn.Embedding(3, 4), pytest.param(None, id="old weight norm"),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_layers_that_are_left_alone(layer: nn.Module | None) -> None:
    layer = weight_norm(nn.Linear(4, 6)) if layer is None else layer
    assert not layers.takes_input_scale(layer) and not layers.takes_output_scale(layer)
