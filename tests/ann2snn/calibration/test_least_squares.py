"""Fits of single neurons against brute force, and whole networks: the error falls, odd data do not break it."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import sj_parallel_conversion as sjpc
from sj_parallel_conversion.ann2snn.calibration.least_squares import fit_neuron

CALIBRATIONS = ["least_squares", "weights"]


def network(channels: int = 6) -> nn.Module:
    torch.manual_seed(1)
    layers = [nn.Conv2d(3, channels, 3, padding=1), nn.ReLU(), nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(16 * channels, 5)).eval()


def convert(ann: nn.Module, batches: list[Tensor], **options: object) -> sjpc.SpikingNetwork:
    options = {"time_steps": 4, "threshold": "mse", "calibration": "least_squares", "show_progress": False} | options
    return sjpc.ParallelConverter(batches, **options).convert(ann)


def error(snn: sjpc.SpikingNetwork, ann: nn.Module, x: Tensor) -> float:
    with torch.no_grad():
        y = ann(x)
        return ((snn.predict(x) - y).square().sum() / (y - y.mean(0)).square().sum()).item()


@pytest.mark.parametrize("node_type", [sjpc.ParallelConversionNode, sjpc.SpikePackNode])
@pytest.mark.parametrize("T", [1, 2, 4])
def test_fit_is_near_the_best_on_a_fine_grid(node_type: type, T: int) -> None:
    torch.manual_seed(0)
    z = torch.randn(3, 2000) * torch.tensor([[0.5], [1.0], [7.0]])
    y = z.relu()
    node = node_type(T, torch.ones(3))
    fit_neuron(node, z, z - 0.25, y, search=True)
    fitted = (node.decoded((z - 0.25).T).T - y).square().sum(1)
    levels, best = node.code.max_level(T), torch.full((3,), torch.inf)
    for share in torch.linspace(0.05, 1.1, 200):
        step = share * y.amax(1, keepdim=True) / levels
        k = (z / step + 0.5).floor().clamp(0, levels)
        amplitude = (k * y).sum(1, keepdim=True) / k.square().sum(1, keepdim=True).clamp_min(1e-9)
        best = torch.minimum(best, (y - amplitude * k).square().sum(1))
    assert (fitted <= 1.05 * best).all()


def test_a_given_threshold_is_kept() -> None:
    node = sjpc.ParallelConversionNode(4, torch.tensor([1.5, 2.0]))
    z = torch.randn(2, 500)
    fit_neuron(node, z, z, z.relu(), search=False)
    assert node.v_threshold.tolist() == [1.5, 2.0]
    assert not torch.equal(node.amplitude, node.v_threshold)


@pytest.mark.parametrize("psi", [0.0, 0.2, 0.9])
def test_the_amplitude_is_that_of_the_levels_with_the_charge_of_the_neuron(psi: float) -> None:
    torch.manual_seed(0)
    z, theta = torch.randn(3, 2000), torch.tensor([0.3, 0.5, 0.7])
    node = sjpc.ParallelConversionNode(4, theta, psi=psi * theta)
    fit_neuron(node, z, z, z.relu(), search=False)
    k = node.level(z.T).T
    torch.testing.assert_close(node.unit.data, (k * z.relu()).sum(1) / k.square().sum(1))


@pytest.mark.parametrize("samples", [2, 3, 20, 500])
@pytest.mark.parametrize("T", [8, 12, 16])
def test_many_levels_are_told_apart(T: int, samples: int) -> None:
    """The search finds no step that is worse than the one it was given, however small both errors are."""
    torch.manual_seed(samples)
    z = torch.randn(64, samples)
    largest = z.amax(1).clamp_min(0.01)
    given = sjpc.TSANode(T, largest / sjpc.TSANode.code.max_level(T))
    fitted = copy.deepcopy(given)
    fit_neuron(given, z, z, z.relu(), search=False)
    fit_neuron(fitted, z, z, z.relu(), search=True)
    error = [(node.decoded(z.T).T - z.relu()).square().sum() for node in (fitted, given)]
    assert error[0] <= (1.0 if samples == 500 else 0.9) * error[1]


def test_a_weight_of_two_is_the_sample_twice() -> None:
    torch.manual_seed(0)
    z = torch.randn(3, 300)
    z0, twice = z - 0.2 * torch.rand(3, 300), torch.arange(300) % 3 == 0
    weighted, repeated = sjpc.ParallelConversionNode(4, torch.ones(3)), sjpc.ParallelConversionNode(4, torch.ones(3))
    fit_neuron(weighted, z, z0, z.relu(), search=False, weight=(1.0 + twice).expand(3, -1))
    z, z0 = (torch.cat([x, x[:, twice]], 1) for x in (z, z0))
    fit_neuron(repeated, z, z0, z.relu(), search=False)
    for name, value in repeated.named_parameters():
        torch.testing.assert_close(getattr(weighted, name), value, rtol=1e-4, atol=1e-5)


def test_the_threshold_is_for_what_counts() -> None:
    torch.manual_seed(0)
    z = torch.rand(1, 1000)
    z[:, :50] *= 10
    nodes = [sjpc.ParallelConversionNode(4, torch.full((1,), 10.0)) for _ in range(2)]
    counts = (torch.arange(1000) >= 50).float().unsqueeze(0).clamp_min(1e-6)
    for node, weight in zip(nodes, (None, counts), strict=True):
        fit_neuron(node, z, z, z, search=True, weight=weight)
    assert nodes[1].v_threshold < 1.2 < nodes[0].v_threshold


def test_a_value_that_every_step_can_meet_keeps_the_threshold() -> None:
    """One active sample says nothing about the rest; a step that clips there would clip all that is larger."""
    z = torch.tensor([[-1.0, 2.5, -0.5]])
    node = sjpc.TSANode(8, torch.tensor([2.5 / 255]))
    fit_neuron(node, z, z, z.relu(), search=True)
    torch.testing.assert_close(node.v_threshold.data, torch.tensor([2.5 / 255]))


@pytest.mark.parametrize("calibration", CALIBRATIONS)
@pytest.mark.parametrize("T", [8, 12])
def test_two_images_and_many_levels(calibration: str, T: int) -> None:
    """What a calibration does with next to no data must not cost the precision that the thresholds have."""
    ann, x, others = network(), torch.randn(2, 3, 8, 8), torch.randn(64, 3, 8, 8)
    plain, fitted = (
        convert(ann, [x], mode="css", time_steps=T, calibration=c) for c in ("none", calibration)
    )
    assert error(fitted, ann, x) < 1.5 * error(plain, ann, x)
    assert error(fitted, ann, others) < 1.5 * error(plain, ann, others)


@pytest.mark.parametrize("calibration", CALIBRATIONS)
@pytest.mark.parametrize("mode", ["parallel", "spikepack", "css"])
def test_error_falls(calibration: str, mode: str) -> None:
    ann, x = network(), torch.randn(128, 3, 8, 8)
    plain = convert(ann, [x], time_steps=2, threshold="max", calibration="none", mode=mode)
    fitted = convert(ann, list(x.split(32)), time_steps=2, calibration=calibration, mode=mode)
    held_out = torch.randn(64, 3, 8, 8)
    assert error(fitted, ann, held_out) < 0.7 * error(plain, ann, held_out)


@pytest.mark.parametrize("calibration", CALIBRATIONS)
def test_same_data_same_network_and_the_ann_stays(calibration: str) -> None:
    ann, x = network(), torch.randn(40, 3, 8, 8)
    before = copy.deepcopy(ann.state_dict())
    first, second = (convert(ann, [x], calibration=calibration) for _ in range(2))
    for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert all(torch.equal(value, before[name]) for name, value in ann.state_dict().items())


def dead(ann: nn.Module) -> nn.Module:
    ann[0].weight.data[1:3], ann[0].bias.data[1:3] = 0, -1.0
    return ann


@pytest.mark.parametrize("calibration", [*CALIBRATIONS, "da_qcfs"])
@pytest.mark.parametrize(
    ("ann", "batches"),
    [
        pytest.param(network(), [torch.randn(1, 3, 8, 8)], id="one image"),
        pytest.param(network(), [torch.randn(32, 3, 8, 8)], id="one batch"),
        pytest.param(network(), [torch.randn(1, 3, 8, 8).expand(32, -1, -1, -1)] * 2, id="duplicates"),
        pytest.param(dead(network()), [torch.randn(32, 3, 8, 8)], id="dead channels"),
        pytest.param(network(), [torch.zeros(8, 3, 8, 8)], id="zeros"),
        pytest.param(network().double(), [torch.randn(16, 3, 8, 8)], id="float64"),
        pytest.param(network().bfloat16(), [torch.randn(16, 3, 8, 8)], id="bfloat16"),
        pytest.param(network(), [torch.randn(8, 3, 1, 1)], id="1x1 maps"),
        pytest.param(network(), [torch.randn(5, 3, 8, 8), torch.randn(2, 3, 8, 8)], id="uneven batches"),
    ],
)
def test_odd_data(calibration: str, ann: nn.Module, batches: list[Tensor]) -> None:
    for threshold in ("mse", "99.9%"):
        snn = convert(ann, batches, calibration=calibration, threshold=threshold)
        assert all(torch.isfinite(p).all() for p in snn.parameters())
        assert torch.isfinite(snn.predict(batches[0].to(next(ann.parameters()).dtype))).all()


@pytest.mark.parametrize("calibration", ["none", "da_qcfs", *CALIBRATIONS])
@pytest.mark.parametrize("threshold", ["mse", "99%"])
def test_an_outlier_does_not_spoil_the_rest(threshold: str, calibration: str) -> None:
    ann, x = network(), torch.randn(128, 3, 8, 8)
    x[0, :, 0, 0] = 1e4
    assert error(convert(ann, [x], threshold=threshold, calibration=calibration), ann, x[1:]) < 0.3


@pytest.mark.parametrize("calibration", CALIBRATIONS)
@pytest.mark.parametrize("broadcast_last", [True, False])
def test_broadcast_additions(calibration: str, broadcast_last: bool) -> None:
    class Context(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
            self.pooled, self.head = nn.Conv2d(6, 6, 1), nn.Linear(6, 5)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(self.a(x))
            mean = x.mean((2, 3), keepdim=True)
            z = self.b(x) + self.pooled(mean) if broadcast_last else self.pooled(mean) + self.b(x)
            return self.head(torch.relu(z).mean((2, 3)))

    torch.manual_seed(0)
    ann, x = Context().eval(), torch.randn(128, 3, 8, 8)
    plain, calibrated = (convert(ann, [x], time_steps=2, calibration=c) for c in ("none", calibration))
    assert error(calibrated, ann, x) < error(plain, ann, x)


def test_identical_images() -> None:
    torch.manual_seed(0)
    ann = nn.Sequential(nn.Linear(20, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 5)).eval()
    x = torch.rand(1, 20).expand(512, 20).clone()
    assert torch.isfinite(convert(ann, [x], calibration="weights").predict(x)).all()


class Block(nn.Module):
    """A residual block between two layers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.a, self.b, self.head = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.c, self.d = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        x = (self.b(self.a(x).relu()) + x).relu()
        return self.head((self.d(self.c(x).relu()) + x).relu())


@pytest.mark.parametrize("calibration", CALIBRATIONS)
@torch.no_grad()
def test_the_neuron_of_a_membrane_shortcut_cancels_what_is_there(calibration: str) -> None:
    """Not what the ANN has there: its input is the spiking network's own, so there is no error to shift away."""
    x = torch.randn(256, 6, generator=torch.Generator().manual_seed(1))
    options = {"calibration": calibration, "shortcut": "membrane", "fold": False, "time_steps": 2}
    snn = convert(Block().eval(), [x], **options)
    nodes = {name: site.node for name, site in snn.net.named_modules() if hasattr(site, "node")}
    shortcuts = [node for name, node in nodes.items() if name.endswith("_shortcut")]
    assert len(shortcuts) == 2 and all((node.shift == 0).all() for node in shortcuts)
    assert any((node.shift != 0).any() for node in nodes.values())
