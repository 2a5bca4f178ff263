"""What pruning has removed stays removed."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

import sj_parallel_conversion as sjpc
from sj_parallel_conversion.ann2snn.calibration import regression
from sj_parallel_conversion.ann2snn.calibration.regression import apply_change, fit_change


def network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16),
        nn.ReLU(), nn.Conv2d(16, 16, 3, groups=2), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(576, 10),
    )  # fmt: skip
    for layer in layers:
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(layer.weight)
    return layers.eval()


def by_hand(layer: nn.Module, share: float) -> None:
    with torch.no_grad():
        layer.weight[torch.rand(layer.weight.shape) < share] = 0


def channels(layer: nn.Module, share: float) -> None:
    prune.ln_structured(layer, "weight", share, n=2, dim=0)


def inputs(layer: nn.Module, share: float) -> None:
    prune.ln_structured(layer, "weight", share, n=2, dim=1)


def blocks(layer: nn.Module, share: float) -> None:
    rows = layer.weight.detach().flatten(1)
    mask = (torch.rand(rows.shape[0] // 2, rows.shape[1]) >= share).float().repeat_interleave(2, 0)
    prune.custom_from_mask(layer, "weight", mask.view_as(layer.weight))


def unstructured(layer: nn.Module, share: float) -> None:
    prune.l1_unstructured(layer, "weight", share)


@pytest.mark.parametrize("pruned", [by_hand, channels, inputs, blocks, unstructured])
@pytest.mark.parametrize("share", [0.3, 0.9])
@pytest.mark.parametrize("fold", [True, False])
def test_zeros_stay_zeros(pruned: Callable[[nn.Module, float], None], share: float, fold: bool) -> None:
    ann = network()
    layers = [3, 6, 10]
    for i in layers:
        pruned(ann[i], share)
    x = torch.randn(64, 3, 14, 14)
    options = {"calibration": "weights", "distillation_epochs": 1, "fold": fold, "show_progress": False}
    snn = sjpc.ParallelConverter(list(x.split(16)), **options).convert(ann)
    for i in layers:
        zeros, weight = ann[i].weight == 0, snn.net.get_submodule(str(i)).weight
        assert zeros.float().mean() > 0.1, i
        assert not weight[zeros].any(), i


@pytest.mark.parametrize("solver", ["Sums", "Rows"])
@pytest.mark.parametrize("groups", [1, 2])
@torch.no_grad()
def test_the_others_are_solved_for(solver: str, groups: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The change that explains everything has the layer's zeros, so that it must be found."""
    monkeypatch.setattr(regression, "Sums", getattr(regression, solver))
    torch.manual_seed(0)
    layer, wanted = (nn.Conv1d(8, 6, 3, groups=groups) for _ in range(2))
    kept = torch.rand(layer.weight.shape) < 0.4
    kept[2] = False
    layer.weight *= kept
    wanted.weight *= kept
    wanted.bias[2] = layer.bias[2]
    u = 2 + torch.randn(200, 8, 5) @ torch.randn(5, 5)
    y, target = layer(u), wanted(u)
    apply_change(layer, fit_change(layer, [u], [y], [target], [None], False, [torch.arange(200) % 8 == 7]))
    assert (layer(u) - target).square().mean() < 1e-4 * (y - target).square().mean()
    assert torch.equal(layer.weight != 0, kept)


@torch.no_grad()
def test_is_ridge_regression_on_what_is_left() -> None:
    """Against the normal equations of each channel; no image is held out, so that the ridge is the default."""
    torch.manual_seed(0)
    layer, u = nn.Linear(5, 3), torch.randn(40, 5)
    kept = torch.tensor([[1, 1, 0, 0, 1], [0, 1, 1, 0, 0], [0, 0, 0, 0, 0]]).bool()
    layer.weight *= kept
    y = layer(u)
    target = y + 0.3 * torch.randn(40, 3)
    change = fit_change(layer, [u], [y], [target], [None], False, [torch.zeros(40, dtype=torch.bool)])[0]
    x, error = torch.cat([u, torch.ones(40, 1)], 1).double(), (target - y).double()
    penalty = 0.01 * x.square().sum(0)[:-1].mean()
    for channel in range(2):
        chosen = torch.cat([kept[channel], torch.tensor([True])])
        matrix = x[:, chosen].T @ x[:, chosen]
        matrix.diagonal()[:-1] += penalty
        expected = torch.linalg.solve(matrix, x[:, chosen].T @ error[:, channel])
        torch.testing.assert_close(change[chosen, channel].double(), expected, rtol=1e-3, atol=1e-4)
    assert not change[:, 2].any(), "a channel without weights"
