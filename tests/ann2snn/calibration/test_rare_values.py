"""Values that are rare but real: the default thresholds are never much worse than "max" on the calibration data."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import sj_parallel_conversion as sjpc

CALIBRATIONS = ["none", "da_qcfs", "least_squares", "weights"]


def scores() -> tuple[nn.Module, Tensor]:
    """Forty units, of which one is near 1 in each sample and all others are near 0; a layer reads them."""
    generator = torch.Generator().manual_seed(0)
    prototypes = nn.functional.normalize(torch.randn(40, 32, generator=generator), dim=1)
    classes = torch.randint(40, (128,), generator=generator)
    x = 4 * prototypes[classes] + 0.2 * torch.randn(128, 32, generator=generator)
    ann = nn.Sequential(nn.Linear(32, 40), nn.Sigmoid(), nn.Linear(40, 40, bias=False))
    ann[0].weight.data = 5 * prototypes
    ann[0].bias.data.fill_(-14.0)
    ann[2].weight.data = torch.eye(40)
    return ann, x


def one_hot() -> tuple[nn.Module, Tensor]:
    ann, x = scores()
    return nn.Sequential(ann[0], nn.Softplus(), ann[2]), x


def identity(channels: int) -> nn.Conv2d:
    conv = nn.Conv2d(channels, channels, 1, bias=False)
    conv.weight.data = torch.eye(channels).view(channels, channels, 1, 1)
    return conv


def heatmaps() -> tuple[nn.Module, Tensor]:
    """Peaks in two pixels of 256, in half of the images and of the channels, over a small background."""
    generator = torch.Generator().manual_seed(0)
    x = 0.01 * torch.rand(64, 6, 16, 16, generator=generator)
    place = torch.rand(64, 6, 16, 16, generator=generator) < 0.004
    x[place & (torch.rand(64, 6, 1, 1, generator=generator) < 0.5)] = 3.0
    return nn.Sequential(identity(6), nn.ReLU(), identity(6)), x


def seldom_active() -> tuple[nn.Module, Tensor]:
    """A channel that is active in three of 80,000 places, which an even choice of samples misses."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(20, 2, 64, 64, generator=generator)
    x[:, 1] *= 0.001
    x[[3, 8, 13], 1, 10, 5] = 1.0
    return nn.Sequential(identity(2), nn.ReLU(), identity(2)), x


@torch.no_grad()
def error(ann: nn.Module, x: Tensor, **options: object) -> float:
    batches = list(x.split(16))
    options = {"time_steps": 8, "distillation_epochs": 0, "show_progress": False} | options
    snn = sjpc.ParallelConverter(batches, **options).convert(ann.eval())
    y, z = (torch.cat([f(batch) for batch in batches]) for f in (ann, snn.predict))
    lost, all_of_it = (v.square().transpose(0, 1).flatten(1).sum(1) for v in (y - z, y))
    return float((lost / all_of_it).max())  # of each channel, so that a lost one is seen


@pytest.mark.parametrize("calibration", CALIBRATIONS)
@pytest.mark.parametrize("mode", ["parallel", "css"])
@pytest.mark.parametrize("case", [scores, one_hot, heatmaps, seldom_active])
def test_mse_is_no_worse_than_max(case: object, mode: str, calibration: str) -> None:
    ann, x = case()
    worst = max(error(ann, x, mode=mode, calibration=calibration, threshold="max"), 1e-4)
    assert error(ann, x, mode=mode, calibration=calibration) < 1.05 * worst


@pytest.mark.parametrize("calibration", CALIBRATIONS)
@pytest.mark.parametrize("images", [12, 64])
@torch.no_grad()
def test_a_broken_image_of_few_or_many(images: int, calibration: str) -> None:
    torch.manual_seed(0)
    ann = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 6, 3), nn.ReLU(), nn.Flatten())
    ann.append(nn.Linear(216, 5))
    x = torch.randn(images, 3, 8, 8)
    x[0, :, 0, 0] = 1e5
    snn = sjpc.ParallelConverter([x], time_steps=8, calibration=calibration, show_progress=False).convert(ann.eval())
    y, z = ann(x[1:]), snn.predict(x[1:])
    assert (y - z).square().sum() < 0.3 * (y - y.mean(0)).square().sum()
