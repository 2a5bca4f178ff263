"""The solution of the regression against known changes."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from linear_layers import LAYERS
from torch import nn

from sj_parallel_conversion.ann2snn.calibration import regression
from sj_parallel_conversion.ann2snn.calibration.regression import apply_change, fit_change


def held_out(batches: Sequence[torch.Tensor], every: int = 8) -> list[torch.Tensor]:
    """Every eighth image, counted over all batches."""
    held = torch.arange(sum(map(len, batches))) % every == every - 1
    return list(held.split([len(x) for x in batches]))


@pytest.mark.parametrize("name", LAYERS)
@torch.no_grad()
def test_finds_a_change_that_explains_everything(name: str) -> None:
    torch.manual_seed(0)
    make, shape = LAYERS[name]
    layer, wanted = make(), make()
    u = torch.randn(200, *shape)
    batches = u.split([64, 1, 135])
    outputs, targets = ([module(x) for x in batches] for module in (layer, wanted))
    change = fit_change(layer, batches, outputs, targets, [None] * 3, rectified=False, held_out=held_out(batches))
    apply_change(layer, change)
    torch.testing.assert_close(layer(u), wanted(u), rtol=0, atol=0.02)


@torch.no_grad()
def test_no_change_where_none_helps() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(30, 2)
    u, noise = torch.randn(32, 30), torch.randn(32, 2)
    y = layer(u)
    change = fit_change(layer, [u], [y], [y], [None], rectified=False, held_out=held_out([u]))
    assert change is None or change.abs().max() < 1e-6
    change = fit_change(layer, [u], [y], [y + noise], [None], rectified=False, held_out=held_out([u]))
    assert change is None or change.abs().max() < 1  # 30 weights cannot be learnt from 28 noisy rows


@torch.no_grad()
def test_a_rectifier_lets_negative_targets_go() -> None:
    """What lies below zero on both sides costs nothing, so the fit spends its freedom on what is positive."""
    torch.manual_seed(0)
    layer = nn.Linear(4, 3)
    u = torch.randn(800, 4)
    target = (u @ torch.randn(4, 3)) + 0.5 * torch.randn(800, 3)
    target[target < 0] *= 30
    errors = {}
    for rectified in (False, True):
        change = fit_change(layer, [u], [layer(u)], [target], [None], rectified, held_out=held_out([u]))[0]
        z = layer(u) + torch.cat([u, torch.ones(800, 1)], 1) @ change
        errors[rectified] = (z.relu() - target.relu()).square().sum()
    assert errors[True] < 0.7 * errors[False]


@torch.no_grad()
def test_a_weight_of_two_is_the_row_twice() -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(2, 3, 1)
    u, noise = torch.randn(64, 2, 3, 3), torch.randn(64, 3, 3, 3)
    target = layer(u) + u.sum(1, keepdim=True) + noise
    weight = torch.ones(64, 1, 3, 3)
    weight[:32] = 2
    weighted = fit_change(layer, [u], [layer(u)], [target], [weight], rectified=True, held_out=held_out([u], 1))
    twice = [torch.cat([x[:32], x[:32], x[32:]]) for x in (u, layer(u), target)]
    repeated = fit_change(layer, *([x] for x in twice), [None], rectified=True, held_out=held_out(twice[:1], 1))
    torch.testing.assert_close(weighted, repeated, rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_is_ridge_regression_on_all_rows() -> None:
    """Against the textbook's normal equations, with weights; no image is held out, so the ridge is the default."""
    torch.manual_seed(0)
    layer, u, weight = nn.Linear(5, 3), torch.randn(40, 5), torch.rand(40, 1)
    y = layer(u)
    target = y + 0.3 * torch.randn(40, 3)
    change = fit_change(layer, [u], [y], [target], [weight], rectified=False, held_out=held_out([u], 1))[0].double()
    x = torch.cat([u, torch.ones(40, 1)], 1).double()
    covariance = x.T @ (weight * x)
    scale = covariance.diagonal()[:-1].mean()
    penalty = torch.tensor([0.01] * 5 + [0.0]) * scale
    expected = torch.linalg.solve(covariance + penalty.diag(), x.T @ (weight * (target - y)).double())
    torch.testing.assert_close(change, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("groups", [1, 3])
@torch.no_grad()
def test_fewer_rows_than_features_give_the_same_as_many(groups: int, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    layer, wanted = (nn.Conv1d(36, 6, 2, groups=groups) for _ in range(2))
    u = 5 + (torch.randn(10, 2) @ torch.randn(2, 108)).view(10, 36, 3)
    weight, target = torch.rand(10, 1, 2) + 0.1, wanted(u)
    changes = []
    for rows in (regression.Rows, regression.Sums):
        monkeypatch.setattr(regression, "Rows", rows)
        batches = [x.split([4, 6]) for x in (u, layer(u), target, weight)]
        changes.append(fit_change(layer, *batches, rectified=True, held_out=held_out(batches[0])))
    assert changes[0] is not None
    # inputs of rank 2: beyond it only the least penalty keeps float32's rounding in bounds
    torch.testing.assert_close(*changes, rtol=0, atol=2e-3 * float(changes[0].abs().max()))


@torch.no_grad()
def test_memory_does_not_grow_with_the_square_of_the_features(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regression.Sums, "add", None)  # 7 GB here
    layer, u = nn.Linear(30_000, 3), torch.randn(16, 1) * torch.randn(30_000)
    y = layer(u)
    target = y + u[:, :3]
    apply_change(layer, fit_change(layer, [u], [y], [target], [None], rectified=False, held_out=held_out([u])))
    assert (layer(u) - target).square().mean() < 1e-3 * (y - target).square().mean()


@pytest.mark.parametrize("spread", [0.0, 1e-3, 1.0])
@torch.no_grad()
def test_a_common_mean_leaves_digits_for_what_differs(spread: float) -> None:
    torch.manual_seed(0)
    layer, wanted = nn.Linear(300, 4), nn.Linear(300, 4)
    u = 3 * torch.rand(300) + spread * torch.randn(4000, 300)
    batches = u.split(1000)
    outputs, targets = ([module(x) for x in batches] for module in (layer, wanted))
    change = fit_change(layer, batches, outputs, targets, [None] * 4, rectified=False, held_out=held_out(batches))
    apply_change(layer, change)
    before, after = (((torch.cat(y) - torch.cat(targets)).square().mean()) for y in (outputs, [layer(u)]))
    assert after < 1e-3 * before


@pytest.mark.parametrize("scale", [0.0, 1e19])
@torch.no_grad()
def test_no_change_where_there_is_no_solution(scale: float) -> None:
    layer = nn.Linear(5, 3)
    u = scale * torch.randn(64, 5)
    y = layer(u)
    change = fit_change(layer, [u], [y], [y], [None], rectified=False, held_out=held_out([u]))
    assert change is None or change.abs().max() < 1e-6


def test_a_changed_layer_has_weights_of_its_own() -> None:
    embedding = nn.Embedding(7, 5)
    head = nn.Linear(5, 7, bias=False)
    head.weight = embedding.weight
    before = embedding.weight.detach().clone()
    apply_change(head, torch.ones(1, 6, 7))
    assert torch.equal(embedding.weight, before)
    torch.testing.assert_close(head.weight, before + 1)


def test_without_a_generator_torch_s_own_is_left_alone() -> None:
    torch.manual_seed(0)
    layer, u = nn.Conv2d(2, 3, 3), torch.randn(64, 2, 80, 80)  # so many places that some are drawn
    y = layer(u).detach()
    before = torch.get_rng_state()
    held = held_out([u])
    changes = [fit_change(layer, [u], [y], [1.5 * y], [None], rectified=False, held_out=held) for _ in range(2)]
    assert torch.equal(*changes) and torch.equal(before, torch.get_rng_state())
