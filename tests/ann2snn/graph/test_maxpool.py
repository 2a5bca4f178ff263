"""Max pooling over trains of one channel: the train of the largest count, exactly."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from captured import captured, outputs_of
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn
from torch.nn import functional as F

from sj_parallel_conversion.ann2snn.graph.maxpool import max_pool_steps
from sj_parallel_conversion.ann2snn.graph.operations import is_max_pool
from sj_parallel_conversion.functional import CODES, decode, encode

POOLS = {
    "1d": (1, nn.MaxPool1d(2)),
    "2d": (2, nn.MaxPool2d(2)),
    "2d, overlapping, padded": (2, nn.MaxPool2d(3, stride=2, padding=1)),
    "2d, dilated": (2, nn.MaxPool2d(2, dilation=2, stride=1)),
    "2d, ceil": (2, nn.MaxPool2d(4, stride=3, ceil_mode=True)),
    "3d": (3, nn.MaxPool3d(2)),
    "adaptive 1d": (1, nn.AdaptiveMaxPool1d(3)),
    "adaptive 2d": (2, nn.AdaptiveMaxPool2d((2, 3))),
    "adaptive 3d": (3, nn.AdaptiveMaxPool3d(2)),
    "F.max_pool1d": (1, lambda x: F.max_pool1d(x, 2)),
    "F.max_pool2d": (2, lambda x: F.max_pool2d(x, 3, stride=2, padding=1)),
    "F.max_pool3d": (3, lambda x: F.max_pool3d(x, kernel_size=2)),
    "F.adaptive_max_pool2d": (2, lambda x: F.adaptive_max_pool2d(x, 2)),
    "a window that depends on a size": (2, lambda x: F.max_pool2d(x, x.shape[-1] - 3)),
}


class Function(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


@cache
def pool_node(name: str) -> tuple[fx.GraphModule, fx.Node, int]:
    dim, pool = POOLS[name]
    model, _ = captured(nn.Sequential(pool) if isinstance(pool, nn.Module) else Function(pool), maps(dim))
    return model, outputs_of(model)[0], dim


def maps(dim: int, levels: int = 16) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, levels, (2, 3, *[7] * dim), generator=generator).float()


def arguments(model: fx.GraphModule, node: fx.Node, x: Tensor) -> tuple[tuple, dict]:
    """What ``node`` is called with for an input ``x``."""
    interpreter = fx.Interpreter(model, garbage_collect_values=False)
    interpreter.run(x)
    return fx.node.map_arg((node.args, node.kwargs), interpreter.env.__getitem__)


@pytest.mark.parametrize("name", POOLS)
@settings(max_examples=15)
@given(T=st.sampled_from([1, 2, 5, 8]), seed=st.integers(0, 2**20))
def test_sorted_trains(name: str, T: int, seed: int) -> None:
    """Nested trains: the elementwise maximum, and the pooled counts, ties included (few levels: many ties)."""
    model, node, dim = pool_node(name)
    assert is_max_pool(model, node)
    code, generator = CODES["sorted"], torch.Generator().manual_seed(seed)
    levels = torch.randint(0, T + 1, (2, 3, *[7] * dim), generator=generator).float()
    train = encode(levels, code, T)
    pooled = torch.stack(max_pool_steps(model, node, *arguments(model, node, levels), list(train)))
    assert torch.equal(pooled, torch.stack([model(spikes)[0] for spikes in train]))
    assert torch.equal(decode(pooled, code), model(levels)[0])


@pytest.mark.parametrize("code", ["binary", "signed_digit"])
@pytest.mark.parametrize("name", ["2d", "2d, overlapping, padded", "adaptive 3d", "a window that depends on a size"])
def test_weighted_trains(name: str, code: str) -> None:
    """Weighted trains are not nested, but the unit with the largest value still has the right one."""
    model, node, dim = pool_node(name)
    levels = maps(dim)
    train = encode(levels, CODES[code], 4)
    pooled = torch.stack(max_pool_steps(model, node, *arguments(model, node, levels), list(train)))
    assert torch.equal(decode(pooled, CODES[code]), model(levels)[0])


def test_module_is_left_as_it_was() -> None:
    model, node, _ = pool_node("2d")
    x = torch.rand(2, 3, 7, 7)
    max_pool_steps(model, node, (x,), {}, [x])
    assert isinstance(model(x)[0], Tensor)


@pytest.mark.parametrize("module", [nn.AvgPool2d(2), nn.ReLU(), nn.Flatten()])
def test_other_modules(module: nn.Module) -> None:
    model, _ = captured(nn.Sequential(module), maps(2))
    assert not any(is_max_pool(model, node) for node in model.graph.nodes)
