"""Units: what shrinks, what passes, and that passing them on is the same as multiplying first."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from captured import Functions, captured, outputs_of
from torch import Tensor, fx
from torch.nn import functional as F

from sj_parallel_conversion.ann2snn.graph.units import (
    along,
    keeps_integers,
    may_pass,
    moves_values,
    passed,
    reads_values,
    shrink,
)

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
    "chunk": lambda x: x.chunk(2, 1)[1],
}
STOPS = {
    "mean over channels": lambda x: x.mean(1),
    "channels into the batch": lambda x: x.reshape(8, 1, 6, 6),
    "pad with ones": lambda x: F.pad(x, (1, 1), value=1.0),
    "square": lambda x: x.square(),
    "softmax": lambda x: x.softmax(1),
    "zeros": lambda x: torch.zeros_like(x),
    "batch last": lambda x: x.movedim(0, 3).flatten(2),
}


@cache
def operations() -> tuple[fx.GraphModule, dict[str, fx.Node]]:
    """All of the above in one graph. Every one but the strided slice is one operation."""
    functions = {name: (lambda m, x, name=name: (PASSES | STOPS)[name](x)) for name in PASSES | STOPS}
    model, _ = captured(Functions(functions), torch.ones(2, 4, 6, 6), free_sizes=False)
    return model, dict(zip(functions, outputs_of(model), strict=True))


def unit_after(name: str) -> Tensor | None:
    model, nodes = operations()
    units = {next(iter(model.graph.nodes)): CHANNELS}

    def unit(node: fx.Node) -> Tensor | None:
        """Of a node, along the way from the input."""
        if node not in units and may_pass(model, node) and all(unit(n) is not None for n in node.all_input_nodes):
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), units.__getitem__)
            units[node] = passed(model, node, args, kwargs)
        return units.get(node)

    return unit(nodes[name])


@pytest.mark.parametrize("name", PASSES)
def test_passes(name: str) -> None:
    x = torch.randint(0, 9, (2, 4, 6, 6), generator=torch.Generator().manual_seed(0)).float()
    torch.testing.assert_close(PASSES[name](x) * unit_after(name), PASSES[name](x * CHANNELS))


@pytest.mark.parametrize("name", STOPS)
def test_stops(name: str) -> None:
    assert unit_after(name) is None


def test_integers_stay_integers_where_nothing_is_averaged() -> None:
    model, nodes = operations()
    kept = {name for name in PASSES if keeps_integers(model, nodes[name])}
    assert kept == {"max pool", "flatten", "reshape", "slice", "transpose", "pad", "reflect", "chunk"}
    assert {name for name in PASSES if moves_values(model, nodes[name])} == kept - {"max pool"}


def test_a_size_needs_no_values() -> None:
    model, nodes = operations()
    assert reads_values(model, nodes["mean"]) and not reads_values(model, nodes["zeros"])


def test_shrink_and_along() -> None:
    assert shrink(CHANNELS).shape == (1, 4, 1, 1)
    assert shrink(torch.ones(2, 3)).shape == (1, 1)
    padded = F.pad(CHANNELS, (1, 1, 1, 1))
    assert shrink(padded).shape == (1, 4, 1, 1), "zeros in the padding do not matter"
    assert torch.equal(along(CHANNELS, 1), CHANNELS[0, :, 0, 0]) and along(CHANNELS, 2) is None
    assert torch.equal(along(torch.full((2, 3), 2.0), 1), torch.full((3,), 2.0))
