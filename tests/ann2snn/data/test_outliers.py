"""What counts as an outlier, and what a network keeps of rare strong features and of images that are mostly empty."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import sj_parallel_conversion as sjpc
from sj_parallel_conversion.ann2snn.calibration.least_squares import fit_neuron
from sj_parallel_conversion.ann2snn.calibration.regression import fit_change
from sj_parallel_conversion.ann2snn.data.outliers import is_usual


def test_one_of_many_is_an_outlier_and_the_largest_of_few_is_none() -> None:
    size = torch.ones(2, 100)
    size[0, 7] = 1e3
    assert is_usual(size).sum(1).tolist() == [99, 100]
    assert is_usual(torch.tensor([[1.0, 1e6]])).all()


def test_where_nearly_everything_is_zero_nothing_is_an_outlier() -> None:
    size = torch.zeros(100)
    size[3] = 1.0
    assert is_usual(size).all()


@pytest.mark.parametrize("share", [0.002, 0.02])
def test_rare_strong_features_are_not_clipped(share: float) -> None:
    generator = torch.Generator().manual_seed(0)
    z = 0.1 * torch.randn(1, 10_000, generator=generator)
    strong = torch.rand(1, 10_000, generator=generator) < share
    z[strong] = 5.0
    node = sjpc.TSANode(8, torch.full((1,), 5.0))
    fit_neuron(node, z, z, z.relu(), search=True)
    assert (node.decoded(z[:, strong[0]].T) - 5.0).abs().max() < 0.05


def test_rows_with_content_count_beside_empty_ones() -> None:
    layer = nn.Conv2d(1, 2, 1, bias=False)
    u = torch.zeros(4, 1, 8, 8)
    u[:, :, 3, :4] = 1.0
    (y,) = batches = [layer(u).detach()]
    change = fit_change(layer, [u], batches, [1.5 * y], [None], rectified=False, held_out=[torch.arange(4) == 3])
    torch.testing.assert_close(change[0, 0], 0.5 * layer.weight.detach().flatten(), rtol=0.01, atol=1e-3)


def test_an_outlier_decides_nothing() -> None:
    layer = nn.Linear(3, 2)
    u = torch.randn(200, 3)
    y = layer(u).detach()
    target = y.clone()
    target[7] = 1e6
    change = fit_change(layer, [u], [y], [target], [None], rectified=False, held_out=[torch.arange(200) % 8 == 7])
    assert change is None or change.abs().max() < 1e-3
