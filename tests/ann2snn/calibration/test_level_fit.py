"""The search for a threshold: errors against their equation, in one process and in several."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sj_parallel_conversion import ranks
from sj_parallel_conversion.ann2snn.calibration.level_fit import LevelFit


def problem(seed: int, weighted: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    """Inputs of a neuron, the ANN's activations, and weights, ``[C, samples]``."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(3, 400, generator=generator) * torch.tensor([[0.3], [1.0], [4.0]])
    y = (z + 0.1 * torch.randn(3, 400, generator=generator)).clamp_min(0)
    return z, y, torch.rand(3, 400, generator=generator) if weighted else None


def by_hand(z: Tensor, y: Tensor, weight: Tensor | None, step: Tensor, max_level: int, min_level: int) -> Tensor:
    """The least sum of squares over all amplitudes, in float64."""
    z, y, weight = z.double(), y.double(), torch.ones_like(z).double() if weight is None else weight.double()
    k = (z / step.unsqueeze(1) + 0.5).floor().clamp(min_level, max_level)
    amplitude = (weight * k * y).sum(1) / (weight * k * k).sum(1).clamp_min(1e-12)
    return (weight * (amplitude.clamp_min(0).unsqueeze(1) * k - y) ** 2).sum(1)


@pytest.mark.parametrize("processes", [1, 2])
@given(seed=st.integers(0, 2**16), max_level=st.integers(1, 15), signed=st.booleans(), weighted=st.booleans())
def test_errors_are_the_equation(processes: int, seed: int, max_level: int, signed: bool, weighted: bool) -> None:
    z, y, weight = problem(seed, weighted)
    y = z + 0.1 if signed else y
    min_level = -max_level if signed else 0
    steps = [torch.tensor([0.1, 0.3, 1.0]), torch.tensor([0.05, 0.5, 1.5])]
    with pytest.MonkeyPatch.context() as patch:  # of two, of which the other has no samples
        patch.setattr(ranks, "count", lambda: processes)
        patch.setattr(ranks, "total", lambda x: x)
        patch.setattr(ranks, "largest_in_rows", lambda x: x.amax(1))
        found = list(LevelFit(z, y, max_level, min_level, weight, 0.5).errors(steps))
    for step, error in zip(steps, found, strict=True):
        expected = by_hand(z, y, weight, step, max_level, min_level)
        torch.testing.assert_close(error.double(), expected, rtol=1e-4, atol=1e-4 * float(y.square().sum()) / 3)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("max_level", [1, 4, 15])
def test_no_threshold_of_a_fine_grid_is_a_fifth_better(max_level: int, weighted: bool) -> None:
    z, y, weight = problem(0, weighted)
    fit = LevelFit(z, y, max_level, 0, weight, 0.5)
    found = fit.error(fit.search(y.amax(1) / max_level))
    grid = torch.stack([fit.error(y.amax(1) / max_level * factor) for factor in torch.linspace(0.02, 1.2, 200)])
    assert (found <= 1.2 * grid.amin(0) + 1e-6).all()
