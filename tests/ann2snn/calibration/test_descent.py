"""Steps are relative to what they change, zeros of pruned parameters stay, and a run can be interrupted."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from sj_parallel_conversion.ann2snn.calibration.descent import Descent


def parameter(scale: float = 1.0) -> nn.Parameter:
    return nn.Parameter(scale * torch.randn(7, 5, generator=torch.Generator().manual_seed(0)))


def loss(p: nn.Parameter, scale: float = 1.0) -> torch.Tensor:
    return (p / scale - 0.3).square().mean()


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_steps_are_relative(scale: float) -> None:
    p, q = parameter(), parameter(scale)
    descents = Descent([p], 0.01), Descent([q], 0.01)
    for share in (1.0, 0.5, 0.1):
        descents[0].step(loss(p), share, average=True)
        descents[1].step(loss(q, scale), share, average=True)
    torch.testing.assert_close(q / scale, p, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(descents[1].averages()[0] / scale, descents[0].averages()[0], rtol=1e-4, atol=1e-5)


def test_the_first_step_has_the_size_of_the_rate() -> None:
    p = parameter()
    before = p.detach().clone()
    Descent([p], 0.01).step(loss(p), 0.5)
    step = 0.01 * 0.5 * before.square().mean().sqrt()
    torch.testing.assert_close((p - before).abs(), step.expand_as(p), rtol=1e-3, atol=0.0)


def test_a_few_large_channels_do_not_decide() -> None:
    p = nn.Parameter(torch.tensor([1.0, 2.0, 1.0, 5000.0, 0.0]).view(5, 1, 1))
    before = p.detach().clone()
    Descent([p], 0.01).step((p - 7).square().sum())
    torch.testing.assert_close((p - before).abs().flatten(), torch.full((5,), 0.01), rtol=0.2, atol=0.0)


def test_averages_are_of_the_steps_that_are_asked_for() -> None:
    p = parameter()
    descent, seen = Descent([p], 0.1), []
    torch.testing.assert_close(descent.averages()[0], p.detach())
    for average in (False, True, True):
        descent.step(loss(p), average=average)
        seen.append(p.detach().clone())
    torch.testing.assert_close(descent.averages()[0], (seen[1] + seen[2]) / 2)


def test_zeros_of_pruned_parameters_stay_and_others_move() -> None:
    pruned, zeros = parameter(), nn.Parameter(torch.zeros(3))
    pruned.data[:3] = 0
    descent = Descent([pruned, zeros], 0.1)
    descent.step(loss(pruned) + loss(zeros))
    assert not pruned[:3].any() and pruned[3:].all() and zeros.all()


def test_goes_on_from_its_state() -> None:
    p, state = parameter(), None
    descent = Descent([p], 0.1)
    for i in range(6):
        if i == 3:
            state, saved = copy.deepcopy(descent.state_dict()), p.detach().clone()
        descent.step(loss(p), average=i > 1)
    q = parameter(3.0)
    other = Descent([q], 0.1)
    q.data.copy_(saved)
    other.load_state_dict(state)
    for _ in range(3):
        other.step(loss(q), average=True)
    assert torch.equal(q, p) and torch.equal(other.averages()[0], descent.averages()[0])
