"""Observers: the largest value of each channel's code, from streamed activations."""

from __future__ import annotations

import pytest
import torch
from captured import captured, data_of
from torch import Tensor, nn

import sj_parallel_conversion as sjpc
from sj_parallel_conversion.ann2snn.placement.sites import find_sites
from sj_parallel_conversion.ann2snn.placement.thresholds import observe

THRESHOLDS = ["max", "mse", "99.9%", "50%"]


def observed(
    model: nn.Module, batches: list[Tensor], threshold: str, max_level: int = 8, per_channel: bool = True
) -> Tensor:
    """What is chosen for the last site of ``model``."""
    traced, _ = captured(model, batches[0])
    sites = find_sites(traced, per_channel)
    return observe(traced, sites, data_of(model, *batches), threshold, max_level)[sites[-1].name]


def features(channels: int = 3, n: int = 4000, seed: int = 0) -> Tensor:
    x = torch.randn(n, channels, generator=torch.Generator().manual_seed(seed))
    return x * torch.arange(1, channels + 1)


@pytest.mark.parametrize("batches", [1, 3, 40])
@pytest.mark.parametrize("shape", [(400, 3), (40, 3, 10), (10, 3, 4, 10)])
def test_max_is_the_largest_activation_of_each_channel(batches: int, shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    layer = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d}[len(shape)](3, eps=0)  # a channel axis
    v_max = observed(nn.Sequential(layer, nn.ReLU()), list(x.chunk(batches)), "max")
    assert torch.allclose(v_max, x.transpose(0, 1).flatten(1).amax(1))


@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_one_threshold_a_layer(threshold: str) -> None:
    x = features()
    v_max = observed(nn.ReLU(), [x], threshold, per_channel=False)
    assert v_max.shape == () and 0 < v_max <= x.max()
    if threshold == "max":
        assert v_max == x.max()


@pytest.mark.parametrize("percent", [99.9, 99, 90, 60])
def test_percentiles(percent: float) -> None:
    x = features()
    v_max = observed(nn.ReLU(), list(x.split(100)), f"{percent}%")
    below, above = (x.relu().quantile(percent / 100, dim=0, interpolation=i) for i in ("lower", "higher"))
    assert (v_max >= below).all() and (v_max <= above * 1.01).all()  # the width of a bin


def test_the_hundredth_percentile_is_the_maximum() -> None:
    x = features()
    assert torch.allclose(observed(nn.ReLU(), [x], "100%"), x.amax(0))


@pytest.mark.parametrize("max_level", [1, 2, 4, 8, 16, 32])
def test_mse_has_the_least_squared_error(max_level: int) -> None:
    x = features(channels=2)
    v_max = observed(nn.ReLU(), list(x.split(500)), "mse", max_level)

    def error(theta: Tensor) -> Tensor:
        return (sjpc.QCFS(max_level, theta)(x) - x.relu()).square().mean(0)

    candidates = torch.stack([error(x.amax(0) * r) for r in torch.linspace(0.03, 1, 300)])
    assert (error(v_max) <= candidates.amin(0) * 1.05 + 1e-9).all()


@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_batches_do_not_matter(threshold: str) -> None:
    x = features()
    chosen = [observed(nn.ReLU(), list(x.split(size)), threshold) for size in (4000, 500, 7)]
    assert torch.equal(chosen[0], chosen[1]) and torch.equal(chosen[0], chosen[2])


@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_channels_that_were_never_active(threshold: str) -> None:
    x = features(4)
    x[:, 1] = -x[:, 1].abs()
    v_max = observed(nn.ReLU(), [x], threshold)
    assert (v_max > 0).all() and v_max.isfinite().all()
    assert (observed(nn.ReLU(), [-x.abs()], threshold) > 0).all(), "a layer that was never active"


@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_rarely_active_channels(threshold: str) -> None:
    """A percentile that would switch the channel off is not taken at its word."""
    x = torch.zeros(5000, 2)
    x[0, 0], x[:, 1] = 3.0, 1.0
    v_max = observed(nn.ReLU(), [x], threshold)
    assert v_max[0] > 0.5 and v_max[1] == pytest.approx(1.0, rel=0.3)


@pytest.mark.parametrize("threshold", THRESHOLDS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_dtypes(threshold: str, dtype: torch.dtype) -> None:
    reference = observed(nn.ReLU(), [features()], threshold)
    v_max = observed(nn.ReLU(), [features().to(dtype)], threshold)
    torch.testing.assert_close(v_max.float(), reference, rtol=0.05, atol=0)


class Overflowing(nn.Module):
    """The second activation is not finite."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.first, self.second, self.value = nn.ReLU(), nn.ReLU(), value

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x) + self.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_activations_that_are_not_finite(threshold: str, value: float) -> None:
    with pytest.raises(sjpc.DataError, match="layer 'second' gives NaN or infinite activations"):
        observed(Overflowing(value), [features()], threshold)


def test_no_hooks_are_left() -> None:
    ann = nn.Sequential(nn.BatchNorm1d(3), nn.ReLU())
    traced, _ = captured(ann, features())
    observe(traced, find_sites(traced), data_of(ann, features()), "mse", 8)
    with pytest.raises(sjpc.DataError):
        observe(traced, find_sites(traced), data_of(ann, features(), features() / 0), "mse", 8)
    assert not any(module._forward_hooks for module in traced.modules())


def test_channels_on_the_first_axis() -> None:
    class Transposed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 5)
            self.act = sjpc.QCFS(3, torch.linspace(0.5, 1, 8), channel_dim=0)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.act(self.a(x).transpose(0, 1)).transpose(0, 1))

    ann, x = Transposed().eval(), torch.randn(40, 6)
    snn = sjpc.ParallelConverter([x], time_steps=3, calibration="none", show_progress=False).convert(ann)
    assert torch.equal(snn.predict(x), ann(x))
