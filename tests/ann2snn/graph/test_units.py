"""Units: what shrinks, what passes, and that passing them on is the same as multiplying first."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from sj_parallel_conversion.ann2snn.graph.shapes import record_shapes
from sj_parallel_conversion.ann2snn.graph.units import along, keeps_integers, may_pass, passed, shrink

CHANNELS = torch.tensor([0.5, 2.0, 3.0, 0.0]).view(1, 4, 1, 1).expand(2, 4, 6, 6)
PASSES = {
    "max pool": lambda x: F.max_pool2d(x, 3, padding=1),
    "average pool, padded": lambda x: F.avg_pool2d(x, 3, padding=1),
    "adaptive pool": lambda x: F.adaptive_avg_pool2d(x, 2),
    "interpolate": lambda x: F.interpolate(x, scale_factor=2, mode="nearest"),
    "mean": lambda x: x.mean((2, 3)),
    "sum, keep": lambda x: torch.sum(x, dim=3, keepdim=True),
    "flatten": lambda x: x.flatten(1),
    "reshape": lambda x: torch.reshape(x, (2, 2, 2, 36)),
    "slice": lambda x: x[:, 1:3, ::2],
    "transpose": lambda x: x.transpose(1, 3),
    "pad": lambda x: F.pad(x, (1, 1, 0, 0, 1, 2)),
    "reflect": lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"),
}
STOPS = {
    "mean over channels": lambda x: x.mean(1),
    "channels into the batch": lambda x: x.reshape(8, 1, 6, 6),
    "pad with ones": lambda x: F.pad(x, (1, 1), value=1.0),
    "square": lambda x: x.square(),
    "softmax": lambda x: x.softmax(1),
}


class Operation(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def traced(function) -> tuple[fx.GraphModule, fx.Node]:
    model = fx.symbolic_trace(Operation(function))
    record_shapes(model, torch.zeros(2, 4, 6, 6))
    return model, list(model.graph.nodes)[1]


def unit_after(function) -> Tensor | None:
    model, node = traced(function)
    if not may_pass(model, node):
        return None
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda n: CHANNELS)
    return passed(model, node, args, kwargs)


@pytest.mark.parametrize("name", PASSES)
def test_passes(name: str) -> None:
    x = torch.randint(0, 9, (2, 4, 6, 6), generator=torch.Generator().manual_seed(0)).float()
    torch.testing.assert_close(PASSES[name](x) * unit_after(PASSES[name]), PASSES[name](x * CHANNELS))


@pytest.mark.parametrize("name", STOPS)
def test_stops(name: str) -> None:
    assert unit_after(STOPS[name]) is None


def test_integers_stay_integers_where_nothing_is_averaged() -> None:
    kept = {name for name, function in PASSES.items() if keeps_integers(*traced(function))}
    assert kept == {"max pool", "flatten", "reshape", "slice", "transpose", "pad", "reflect"}


def test_shrink_and_along() -> None:
    assert shrink(CHANNELS).shape == (1, 4, 1, 1)
    assert shrink(torch.ones(2, 3)).shape == (1, 1)
    padded = F.pad(CHANNELS, (1, 1, 1, 1))
    assert shrink(padded).shape == (1, 4, 1, 1), "zeros in the padding do not matter"
    assert torch.equal(along(CHANNELS, 1), CHANNELS[0, :, 0, 0]) and along(CHANNELS, 2) is None
    assert torch.equal(along(torch.full((2, 3), 2.0), 1), torch.full((3,), 2.0))
