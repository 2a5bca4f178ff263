"""The table of operations keeps what it says: each of its columns is tried on random values."""

from __future__ import annotations

import copy
from functools import cache

import pytest
import torch
from captured import Functions, captured, outputs_of
from hypothesis import given, settings
from hypothesis import strategies as st
from nets import IMAGES, TOKENS
from operator_examples import EXAMPLES, NOT_AFFINE, PRODUCTS, Example
from torch import Tensor, fx, nn
from torch.nn import functional as F

from sj_parallel_conversion.ann2snn import graph
from sj_parallel_conversion.ann2snn.graph.operations import (
    OPERATORS,
    affine_tail,
    is_addition,
    is_affine,
    is_max_pool,
    is_negation,
    operation,
)

T = 3
CASES = [pytest.param(e, id=f"{name}-{i}") for name, examples in EXAMPLES.items() for i, e in enumerate(examples)]
SEEDS = st.integers(0, 2**20)


def rows(condition: object) -> list:
    """The examples whose row fulfils a condition."""
    return [case for case in CASES if condition(operation(*case.values[0].graph()))]


def values(example: Example, seed: int, *leading: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x, y = (torch.randn(*leading, *example.shape, generator=generator, dtype=torch.float64) for _ in range(2))
    return x, y


def parts(result: object) -> list[Tensor]:
    return list(result) if isinstance(result, (tuple, list)) else [torch.as_tensor(result)]


def commutes(model: nn.Module, x_seq: Tensor, y_seq: Tensor) -> bool:
    """Whether the mean over time may be taken before ``model``."""
    before = parts(model(x_seq.mean(0), y_seq.mean(0)))
    steps = [parts(model(x.clone(), y.clone())) for x, y in zip(x_seq, y_seq, strict=True)]
    after = [torch.stack(each).double().mean(0) for each in zip(*steps, strict=True)]
    return all(torch.allclose(a.double(), b, rtol=1e-4, atol=1e-5) for a, b in zip(before, after, strict=True))


def test_every_row_has_an_example() -> None:
    # the values of the first are whatever lies there, and the third is no operator of this torch
    without = {"empty_like", "new_empty", "_adaptive_avg_pool1d"}
    assert {name for name, examples in EXAMPLES.items() if examples} == OPERATORS.keys() - without


@pytest.mark.parametrize("example", CASES)
@settings(max_examples=5)
@given(seed=SEEDS)
def test_affine_operators_commute_with_the_mean_over_time(example: Example, seed: int) -> None:
    model, node = example.graph()
    if operation(model, node).is_max:
        assert not is_affine(model, node)
        return
    assert is_affine(model, node)
    assert commutes(model, *values(example, seed, T))


@pytest.mark.parametrize("example", NOT_AFFINE, ids=lambda example: str(example.target))
def test_operators_that_do_not_commute(example: Example) -> None:
    model, node = example.graph()
    assert not is_affine(model, node)
    assert not commutes(model, *values(example, 0, T))


@pytest.mark.parametrize("example", PRODUCTS, ids=lambda example: str(example.target))
def test_a_factor_that_is_known_to_be_constant(example: Example) -> None:
    model, node = example.graph()
    y = next(n for n in model.graph.nodes if n.name == "y")
    assert is_affine(model, node, constants=[y]) and not is_affine(model, node)


@pytest.mark.parametrize("example", rows(lambda row: row.moves))
@settings(max_examples=5)
@given(seed=SEEDS)
def test_what_moves_values_changes_none(example: Example, seed: int) -> None:
    model, _ = example.graph()
    x, y = values(example, seed)
    allowed = torch.cat([x.flatten(), y.flatten(), torch.zeros(1, dtype=x.dtype)])
    for part in parts(model(x, y)):
        assert torch.isin(part, allowed).all()


@pytest.mark.parametrize("example", rows(lambda row: row.shape_only))
def test_what_asks_for_the_form_ignores_the_values(example: Example) -> None:
    model, _ = example.graph()
    (first,), (second,) = (parts(model(*values(example, seed))) for seed in (0, 1))
    assert torch.equal(first, second)


@pytest.mark.parametrize("example", rows(lambda row: row.spatial_axes))
@settings(max_examples=5)
@given(seed=SEEDS)
def test_what_stays_within_a_channel(example: Example, seed: int) -> None:
    """A positive factor for each channel may come before or after."""
    model, node = example.graph()
    axes = operation(model, node).spatial_axes
    x, y = values(example, seed)
    assert axes in (-1, x.dim() - 2)
    factor = torch.tensor([0.5, 2.0, 3.0, 0.25], dtype=x.dtype).view(1, 4, *[1] * (x.dim() - 2))
    torch.testing.assert_close(model(x * factor, y), model(x, y) * factor)


@pytest.mark.parametrize("example", rows(lambda row: row.is_max))
@settings(max_examples=5)
@given(seed=SEEDS)
def test_what_picks_the_largest(example: Example, seed: int) -> None:
    model, node = example.graph()
    assert is_max_pool(model, node)
    x, y = values(example, seed)
    assert torch.isin(model(x, y), x).all()
    assert torch.equal(model(torch.maximum(x, y), x), torch.maximum(model(x, x), model(y, y)))


@pytest.mark.parametrize("example", rows(lambda row: row.keeps_axes))
@settings(max_examples=5)
@given(seed=SEEDS)
def test_what_keeps_axes(example: Example, seed: int) -> None:
    """Channels in another order are channels of the result in this order. (No example works along the channels.)"""
    model, _ = example.graph()
    x, y = values(example, seed)
    order = torch.tensor([2, 0, 3, 1])
    constant = {name: value[:, order] for name, value in model.named_buffers() if value.shape[1:2] == (4,)}
    moved = copy.deepcopy(model)
    for name, value in constant.items():
        setattr(moved, name, value)
    expected = model(x, y)
    assert expected.dim() == x.dim()
    torch.testing.assert_close(moved(x[:, order], y[:, order]), expected[:, order])


MODULES = [
    nn.Conv2d(3, 4, 3), nn.ConvTranspose2d(3, 4, 3), nn.Linear(12, 5), nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(1),
    nn.BatchNorm2d(3), nn.Flatten(), nn.Dropout(), nn.Identity(), nn.ZeroPad2d(1), nn.ConstantPad2d(1, 2.0),
    nn.ReflectionPad2d(1), nn.ReplicationPad2d(1), nn.Upsample(scale_factor=2), nn.PixelUnshuffle(2),
    nn.Unflatten(1, (3, 1)), nn.ChannelShuffle(3), nn.CircularPad2d(1),
]  # fmt: skip
NOT_AFFINE_MODULES = [
    nn.ReLU(), nn.LayerNorm(12), nn.GroupNorm(3, 3), nn.Softmax(1), nn.InstanceNorm2d(3),
    nn.BatchNorm2d(3, track_running_stats=False), nn.LPPool2d(2, 2), nn.MaxPool2d(2),
]  # fmt: skip
FUNCTIONS = {
    "1 -": lambda m, x: 1 - x,
    "* weight": lambda m, x: x * m.weight,
    "@ weight": lambda m, x: x @ m.weight,
    "weight @": lambda m, x: m.weight @ x,
    "F.linear": lambda m, x: F.linear(x, m.weight),
    "residual": lambda m, x: x + x.flip(1),
    "sum of a list": lambda m, x: sum(x.unbind(1)),
    "slice to size": lambda m, x: x[:, : x.size(1) - 1],
    "pad with threes": lambda m, x: F.pad(x, (1, 1), value=3.0),
    "average pool of all": lambda m, x: F.avg_pool2d(x, x.size(3)),
    "scaled by a size": lambda m, x: x / x.shape[-1] ** 0.5,
    "masked by a constant": lambda m, x: torch.where(m.weight > 0, x, m.weight),
    "in place": lambda m, x: (x * 1).add_(1).mul_(2),
    "assignment": lambda m, x: assigned(x),
}
NOT_AFFINE_FUNCTIONS = {
    "x * f(x)": lambda m, x: x * (x + 1),
    "1 /": lambda m, x: 1 / (x.abs() + 1),
    "floor division": lambda m, x: x // 2,
    "rounded division": lambda m, x: torch.div(x, 0.2, rounding_mode="floor"),
    "masked by a value": lambda m, x: torch.where(x > 0, x, -x),
    "where values are picked": lambda m, x: x.gather(1, (x[:, :1] > 0).long()),
    "where values are written": lambda m, x: torch.zeros_like(x).scatter(1, (x[:, :1] > 0).long(), x),
    "by its norm": lambda m, x: x / x.norm(dim=1, keepdim=True),
}


def assigned(x: Tensor) -> Tensor:
    y = torch.zeros_like(x)
    y[:, 1:] = x[:, :-1]
    return y


@cache
def everything() -> tuple[fx.GraphModule, dict[str, fx.Node]]:
    """All modules and functions in one capture."""
    functions = FUNCTIONS | NOT_AFFINE_FUNCTIONS
    layers = {repr(module): module.eval() for module in MODULES + NOT_AFFINE_MODULES}
    functions |= {name: lambda m, x, name=name: layers[name](x) for name in layers}
    ann = Functions(functions)
    ann.layers = nn.ModuleList(layers.values())
    model, _ = captured(ann.eval(), IMAGES)
    return model.double(), dict(zip(functions, outputs_of(model), strict=True))


def ancestors(node: fx.Node) -> list[fx.Node]:
    """All that ``node`` is computed from, with itself."""
    found, stack = {}, [node]
    while stack:
        node = stack.pop()
        found[node] = None
        stack += node.all_input_nodes
    return [n for n in found if n.op != "placeholder"]


def runs(node: fx.Node) -> list[Tensor]:
    """What ``node`` is, for the mean of some inputs and as the mean over them."""
    x_seq = torch.randn(T, *IMAGES.shape, generator=torch.Generator().manual_seed(1)).double()

    def value(x: Tensor) -> Tensor:
        interpreter = fx.Interpreter(everything()[0], garbage_collect_values=False)
        interpreter.run(x)
        return interpreter.env[node]

    return [value(x_seq.mean(0)), torch.stack([value(x) for x in x_seq]).mean(0)]


@pytest.mark.parametrize("name", [*FUNCTIONS, *map(repr, MODULES)])
@torch.no_grad()
def test_affine_functions_and_modules(name: str) -> None:
    model, nodes = everything()
    assert all(is_affine(model, node) for node in ancestors(nodes[name]))
    torch.testing.assert_close(*runs(nodes[name]))


@pytest.mark.parametrize("name", [*NOT_AFFINE_FUNCTIONS, *map(repr, NOT_AFFINE_MODULES)])
@torch.no_grad()
def test_functions_and_modules_that_are_not_affine(name: str) -> None:
    model, nodes = everything()
    assert not all(is_affine(model, node) for node in ancestors(nodes[name]))
    assert not torch.allclose(*runs(nodes[name]))


def test_modules_in_training_are_not_affine() -> None:
    ann = nn.Sequential(nn.BatchNorm2d(3), nn.Dropout())
    model = captured(ann.eval(), IMAGES)[0]
    norm, dropout = (node for node in model.graph.nodes if node.op == "call_module")
    assert is_affine(model, norm) and is_affine(model, dropout)
    model.train()
    assert not is_affine(model, norm) and not is_affine(model, dropout)


def test_additions_and_negations() -> None:
    functions = {
        "+": lambda m, x: x + x.flip(1), "+=": lambda m, x: (x * 2).add_(x), "+ 1": lambda m, x: x + 1,
        "twice": lambda m, x: x + x, "-": lambda m, x: -x,
        "minus": lambda m, x: x - x.flip(1), "relu": lambda m, x: F.relu(x),
    }  # fmt: skip
    model, _ = captured(Functions(functions), IMAGES)
    nodes = dict(zip(functions, outputs_of(model), strict=True))
    assert [name for name, node in nodes.items() if is_addition(node)] == ["+", "+="]
    assert [name for name, node in nodes.items() if is_negation(node)] == ["-"]


class TwoHeads(nn.Module):
    """A feature that is an output, and also goes through another activation."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.fc1(x)
        return {"features": x, "logits": self.fc3(F.relu(self.fc2(x)) + 1)}


def test_tail_ends_before_the_last_activation_on_every_path() -> None:
    model, _ = captured(TwoHeads(), TOKENS)
    assert {node.name for node in affine_tail(model)} == {"add", "fc3"}


@pytest.mark.parametrize("pool", [nn.MaxPool2d(2), nn.AdaptiveMaxPool2d(3)], ids=repr)
def test_max_pooling_passes_trains(pool: nn.Module) -> None:
    model, _ = captured(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), pool, nn.Flatten()), IMAGES)
    conv, relu, pool, flatten = list(model.graph.nodes)[1:5]
    assert affine_tail(model) == {pool, flatten}
    assert graph.activation_sites(model) == [relu] and is_affine(model, conv)
