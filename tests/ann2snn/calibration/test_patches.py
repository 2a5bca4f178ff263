"""Rows of a regression against torch's own layers."""

from __future__ import annotations

import pytest
import torch
from linear_layers import LAYERS
from torch import nn

from sj_parallel_conversion.ann2snn.calibration.patches import (
    count_places,
    from_weight,
    input_rows,
    output_rows,
    to_weight,
    weight_rows,
)


@pytest.mark.parametrize("name", LAYERS)
@torch.no_grad()
def test_rows_give_the_layer(name: str) -> None:
    make, shape = LAYERS[name]
    layer = make()
    u = torch.randn(4, *shape)
    y = layer(u)
    # other places in each image
    count = count_places(layer, y)
    places = torch.stack([torch.randperm(count)[: (count + 1) // 2].sort().values for _ in range(4)])
    x, z = input_rows(layer, u, places), output_rows(layer, y, places)
    assert len(z[0]) == places.numel()
    groups, _, features = x.shape
    # the rows times each unit vector give what the weight that it stands for would
    units = torch.eye(features).expand(groups, -1, -1)
    computed = torch.zeros_like(z)
    flat = layer.weight.flatten(1).view(groups, -1, layer.weight[0].numel())
    for feature in range(features):
        unit = units[:, feature : feature + 1].transpose(1, 2).expand(-1, -1, z.shape[2])
        position = to_weight(layer, unit).flatten(1).view(groups, -1, layer.weight[0].numel())
        computed += x[..., feature : feature + 1] * (flat * position).sum(2).unsqueeze(1)
    if layer.bias is not None:
        computed += layer.bias.view(groups, 1, -1)
    torch.testing.assert_close(computed, z, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", LAYERS)
@torch.no_grad()
def test_weights_lie_beside_their_rows(name: str) -> None:
    make, shape = LAYERS[name]
    layer = make()
    y = layer(torch.randn(3, *shape))
    weight = torch.rand(y[..., :1].shape if isinstance(layer, nn.Linear) else y[:, :1].shape)
    places = torch.arange(count_places(layer, y)).expand(3, -1)
    rows = weight_rows(layer, weight, y, places)
    weighted = output_rows(layer, y * weight, places)
    torch.testing.assert_close(weighted, output_rows(layer, y, places) * rows)


@pytest.mark.parametrize("name", LAYERS)
def test_weights_as_coefficients_and_back(name: str) -> None:
    layer = LAYERS[name][0]()
    assert torch.equal(to_weight(layer, from_weight(layer, layer.weight)), layer.weight)
