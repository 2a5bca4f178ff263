"""Algorithm 1 of the ICML 2025 paper, against a plain loop over two layers."""

from __future__ import annotations

import pytest
import torch
from captured import captured, data_of
from nets import NETS, net
from torch import Tensor, nn
from torch.nn import functional as F

import sj_parallel_conversion as sjpc
from sj_parallel_conversion.ann2snn.calibration import da_qcfs
from sj_parallel_conversion.ann2snn.placement.sites import Site

T, BATCHES = 4, 130  # more than the momentum takes to reach 0.99


def convert(ann: nn.Module, batches: list[Tensor], **options: object) -> sjpc.SpikingNetwork:
    options = {"time_steps": T, "threshold": "max", "calibration": "da_qcfs", "show_progress": False} | options
    return sjpc.ParallelConverter(batches, **options).convert(ann)


def quantised(x: Tensor, theta: Tensor, shift: Tensor, phi: Tensor) -> Tensor:
    return (theta + phi) / T * (((x + shift) * T + theta / 2) / theta).floor().clamp(0, T)


def algorithm_1(layers: list[nn.Linear], batches: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Shift and phi of each layer, as the paper's pseudo-code has it, with the momentum's warm-up."""
    theta = [torch.full((layer.out_features,), -torch.inf) for layer in layers]
    for x in batches:
        for i, layer in enumerate(layers):
            x = F.relu(layer(x))
            theta[i] = torch.maximum(theta[i], x.amax(0))
    corrections = [[torch.zeros_like(t), torch.zeros_like(t)] for t in theta]
    for n, x in enumerate(batches):
        a = min(n / (n + 1), 0.99)
        x0 = x1 = x
        for layer, t, c in zip(layers, theta, corrections, strict=True):
            x0, x1 = layer(x0), layer(x1)
            c[0] = a * c[0] + (1 - a) * (x1 - x0).mean(0)
            x1 = F.relu(x1)
            c[1] = a * c[1] + (1 - a) * (x1 - quantised(x0, t, *c)).mean(0)
            x0 = quantised(x0, t, *c)
    return corrections


@torch.no_grad()
def test_is_algorithm_1() -> None:
    torch.manual_seed(0)
    ann = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 7), nn.ReLU(), nn.Linear(7, 3))
    batches = list(torch.randn(BATCHES * 8, 6).split(8))
    expected = algorithm_1([ann[0], ann[2]], batches)
    snn = convert(ann, batches)
    for site, (shift, phi) in zip(snn.neurons(), expected, strict=True):
        torch.testing.assert_close(site.node.shift.data, shift, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(site.node.amplitude - site.node.v_threshold, phi, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_takes_back_a_constant_error() -> None:
    """Clipping at half of the range loses the same on inputs that are all at the top; phi gives it back."""
    ann = nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 1))
    ann[0].weight.fill_(1), ann[0].bias.fill_(0)
    x = torch.full((16, 1), 8.0)
    snn = convert(ann, [x], calibration="none")
    snn.neurons()[0].node.v_threshold.data.fill_(4.0)
    model, _ = captured(ann, x)
    da_qcfs(model, snn.net, [Site("1", ann[1], 1)], data_of(ann, x), snn.config)
    torch.testing.assert_close(snn.predict(x), ann(x))


def test_lossless_sites_are_left_alone() -> None:
    torch.manual_seed(0)
    ann = nn.Sequential(nn.Linear(6, 8), sjpc.QCFS(T, 2.0), nn.Linear(8, 7), nn.ReLU(), nn.Linear(7, 3))
    lossless, calibrated = convert(ann, [torch.randn(16, 6)]).neurons()
    assert lossless.node.shift == 0 and lossless.node.amplitude is None
    assert calibrated.node.shift.shape == calibrated.node.amplitude.shape == (7,)


def test_qcfs_with_another_number_of_levels_is_calibrated() -> None:
    torch.manual_seed(0)
    ann = nn.Sequential(nn.Linear(6, 8), sjpc.QCFS(2 * T, 2.0), nn.Linear(8, 3))
    (site,) = convert(ann, [torch.randn(16, 6)]).neurons()
    assert site.node.v_threshold == 2.0
    assert site.node.amplitude is not None


@pytest.mark.parametrize("per_channel", [True, False])
def test_shapes_of_the_corrections(per_channel: bool) -> None:
    ann, x = net("conv 2d")
    (site,) = convert(ann, [x], per_channel=per_channel).neurons()
    expected = (6,) if per_channel else ()
    for name in ("v_threshold", "shift", "amplitude"):
        assert getattr(site.node, name).shape == expected, name


@pytest.mark.parametrize("name", NETS)
def test_the_data_are_read_only(name: str) -> None:
    ann, x = net(name)
    kept = x.clone()
    convert(ann, [x, x[:1]])
    assert torch.equal(x, kept)
