"""Gradient steps on one block: the error is the equation's, and what cannot be improved stays."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from sj_parallel_conversion.ann2snn.calibration import block_fit
from sj_parallel_conversion.ann2snn.calibration.block_fit import BlockFit
from sj_parallel_conversion.ann2snn.data.cache import Spool

GENERATOR = torch.Generator().manual_seed(0)


class Block(nn.Module):
    """A layer whose output is the second of two."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, self.layer(x)


def fit(block: Block, x: Tensor, target: Tensor, weights: list[Tensor] | None = None) -> BlockFit:
    spool = Spool()
    return BlockFit(block, 1, [spool.keep(x.split(8))], spool.keep(target.split(8)), torch.relu, weights)


def test_the_error_is_relative_to_the_variance_of_what_is_seen() -> None:
    block, x, target = Block(), torch.randn(40, 6), torch.randn(40, 4) + 2
    seen = torch.relu(target)
    expected = ((torch.relu(block(x)[1]) - seen) ** 2)[:8].mean() / seen.var(correction=0)
    torch.testing.assert_close(fit(block, x, target).error(0), expected)
    twice = fit(block, x, target, [torch.full((1, 4), 2.0)] * 5)
    torch.testing.assert_close(twice.error(0), 2 * expected)


def test_steps_make_the_error_less_and_leave_no_gradients() -> None:
    torch.manual_seed(0)
    block, x = Block(), torch.randn(64, 6)
    target = block(x)[1].detach() + 0.1 * x @ torch.randn(6, 4)
    found = fit(block, x, target)
    before = found._mean_error(list(range(8)))
    found.train([block.layer.weight], [block.layer.bias], [], GENERATOR)
    assert found._mean_error(list(range(8))) < 0.9 * before
    assert not any(p.requires_grad for p in block.parameters())


def test_a_constant_target_or_no_weights_change_nothing() -> None:
    block, x = Block(), torch.randn(40, 6)
    before = {name: p.clone() for name, p in block.state_dict().items()}
    fit(block, x, torch.ones(40, 4)).train([block.layer.weight], [block.layer.bias], [], GENERATOR)
    fit(block, x, torch.randn(40, 4)).train([], [block.layer.bias], [], GENERATOR)
    assert all(torch.equal(p, before[name]) for name, p in block.state_dict().items())


def test_thresholds_stay_positive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_fit, "_SMALLEST", 0.99)
    block, x = Block(), torch.randn(64, 6)
    block.layer.bias.data.fill_(0.5)
    bias = block.layer.bias
    fit(block, x, 6 * torch.randn(64, 4) - 5).train([block.layer.weight], [bias], [bias], GENERATOR)
    assert 0.5 * 0.989 <= bias.min() < 0.5
