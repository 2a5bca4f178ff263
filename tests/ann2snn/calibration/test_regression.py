"""Patches against torch's own convolutions, the solution against known changes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sj_parallel_conversion.ann2snn.calibration.regression import LayerSamples, apply_change, fit_change

LAYERS = {
    "linear": (nn.Linear(5, 4), (5,)),
    "linear on tokens": (nn.Linear(5, 4), (3, 5)),
    "1-D": (nn.Conv1d(2, 4, 3, stride=2, padding=1), (2, 9)),
    "2-D": (nn.Conv2d(2, 4, 3), (2, 7, 6)),
    "strided, padded, dilated": (nn.Conv2d(2, 4, (3, 2), stride=(2, 1), padding=(2, 1), dilation=(1, 2)), (2, 8, 9)),
    "groups": (nn.Conv2d(4, 6, 3, groups=2, padding=1), (4, 6, 6)),
    "depthwise": (nn.Conv2d(3, 3, 3, groups=3, bias=False), (3, 6, 6)),
    "same": (nn.Conv2d(2, 3, (4, 3), padding="same"), (2, 6, 6)),
    "reflect": (nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect"), (2, 6, 6)),
    "3-D": (nn.Conv3d(2, 3, 2, stride=(1, 2, 1)), (2, 4, 5, 4)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_rows_give_the_layer(name: str) -> None:
    layer, shape = LAYERS[name]
    u = torch.randn(4, *shape)
    y = layer(u)
    samples = LayerSamples(layer, 4)
    samples.add(u, y, y)
    x, z, _, image = samples.joined()
    flat = layer.weight.flatten(1).view(samples.groups, -1, layer.weight[0].numel()).transpose(1, 2)
    bias = torch.zeros(len(layer.weight)) if layer.bias is None else layer.bias
    computed = x[..., :-1] @ flat + bias.view(samples.groups, 1, -1)
    torch.testing.assert_close(computed, z, rtol=1e-4, atol=1e-5)
    assert image.tolist() == sorted(image.tolist()) and set(image.tolist()) == {0, 1, 2, 3}


@pytest.mark.parametrize("name", LAYERS)
@torch.no_grad()
def test_finds_a_change_that_explains_everything(name: str) -> None:
    torch.manual_seed(0)
    layer, shape = LAYERS[name]
    layer = type(layer)(**_arguments(layer))
    wanted = type(layer)(**_arguments(layer))
    u = torch.randn(200, *shape)
    samples = LayerSamples(layer, len(u))
    samples.add(u, layer(u), wanted(u))
    apply_change(layer, fit_change(samples, rectified=False, held_out=8))
    torch.testing.assert_close(layer(u), wanted(u), rtol=0, atol=0.02)


def _arguments(layer: nn.Module) -> dict[str, object]:
    names = ["in_features", "out_features"] if isinstance(layer, nn.Linear) else [
        "in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode"
    ]  # fmt: skip
    return {name: getattr(layer, name) for name in names}


@torch.no_grad()
def test_no_change_where_none_helps() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(30, 2)
    u, noise = torch.randn(32, 30), torch.randn(32, 2)
    samples = LayerSamples(layer, len(u))
    samples.add(u, layer(u), layer(u))
    change = fit_change(samples, rectified=False, held_out=8)
    assert change is None or change.abs().max() < 1e-6
    samples = LayerSamples(layer, len(u))
    samples.add(u, layer(u), layer(u) + noise)
    change = fit_change(samples, rectified=False, held_out=8)
    assert change is None or change.abs().max() < 1  # 30 weights cannot be learnt from 28 noisy rows


@torch.no_grad()
def test_a_rectifier_lets_negative_targets_go() -> None:
    """What lies below zero on both sides costs nothing, so the fit spends its freedom on what is positive."""
    torch.manual_seed(0)
    layer = nn.Linear(4, 3)
    u = torch.randn(800, 4)
    target = (u @ torch.randn(4, 3)) + 0.5 * torch.randn(800, 3)
    target[target < 0] *= 30
    outputs = {}
    for rectified in (False, True):
        samples = LayerSamples(layer, len(u))
        samples.add(u, layer(u), target)
        change = fit_change(samples, rectified, held_out=8)[0]
        z = layer(u) + torch.cat([u, torch.ones(800, 1)], 1) @ change
        outputs[rectified] = (z.relu() - target.relu()).square().sum()
    assert outputs[True] < 0.7 * outputs[False]


@torch.no_grad()
def test_a_weight_of_two_is_the_row_twice() -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(2, 3, 1)
    u, noise = torch.randn(64, 2, 3, 3), torch.randn(64, 3, 3, 3)
    target = layer(u) + u.sum(1, keepdim=True) + noise
    weighted, repeated = LayerSamples(layer, 64), LayerSamples(layer, 96)
    weights = torch.ones(64, 1, 3, 3)
    weights[:32] = 2
    weighted.add(u, layer(u), target, weights)
    for part in (slice(32), slice(32), slice(32, None)):
        repeated.add(u[part], layer(u[part]), target[part])
    changes = [fit_change(samples, rectified=True, held_out=1) for samples in (weighted, repeated)]
    torch.testing.assert_close(*changes, rtol=1e-3, atol=1e-4)
