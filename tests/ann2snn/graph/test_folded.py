"""What folding leaves of amplitudes and thresholds."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from sj_parallel_conversion.ann2snn.graph.folded import ResidualAdd


@pytest.mark.parametrize("factor", [None, torch.tensor(0.3), torch.rand(4, 1, 1)])
@pytest.mark.parametrize("alone", [False, True])
@torch.no_grad()
def test_shortcuts_in_bytes(factor: Tensor | None, alone: bool) -> None:
    """They are added as floats, and are not written to."""
    add = ResidualAdd(factor, nn.Identity() if alone else None)
    x, y = torch.randn(2, 4, 5, 5), torch.randint(0, 256, (2, 4, 5, 5), dtype=torch.uint8)
    kept, levels = x.clone(), y.clone()
    found = add(x, y)
    assert torch.equal(found, add(kept.clone(), levels.float())) and found.dtype == torch.float32
    assert torch.equal(y, levels) and (found.data_ptr() == x.data_ptr()) == alone
