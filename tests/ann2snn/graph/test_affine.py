"""Operations that are called affine commute with the mean over time; a tail ends where one does not."""

from __future__ import annotations

import pytest
import torch
from nets import IMAGES, TOKENS
from torch import Tensor, nn
from torch.nn import functional as F

from sj_parallel_conversion.ann2snn import graph
from sj_parallel_conversion.ann2snn.graph.affine import affine_tail, is_affine

T = 4


class Operation(nn.Module):
    """One function as a module."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function
        self.weight = nn.Parameter(torch.randn(12, 12))

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


AFFINE = {
    "+ 1": lambda m, x: x + 1,
    "1 -": lambda m, x: 1 - x,
    "- x": lambda m, x: -x,
    "* 2": lambda m, x: x * 2,
    "/ 2": lambda m, x: x / 2,
    "* weight": lambda m, x: x * m.weight,
    "@ weight": lambda m, x: x @ m.weight,
    "weight @": lambda m, x: m.weight @ x,
    "F.linear": lambda m, x: F.linear(x, m.weight),
    "residual": lambda m, x: x + x.flip(1),
    "cat": lambda m, x: torch.cat([x, x * 2], 1),
    "stack": lambda m, x: torch.stack([x, -x], 1),
    "mean": lambda m, x: x.mean((2, 3)),
    "sum": lambda m, x: x.sum(1),
    "flatten": lambda m, x: torch.flatten(x, 1),
    "view": lambda m, x: x.view(x.size(0), -1),
    "permute": lambda m, x: x.permute(0, 2, 3, 1),
    "slice": lambda m, x: x[:, :, ::2, 1:],
    "slice to size": lambda m, x: x[:, : x.size(1) - 1],
    "chunk": lambda m, x: x.chunk(3, 1)[1],
    "pad": lambda m, x: F.pad(x, (1, 1), value=3.0),
    "interpolate": lambda m, x: F.interpolate(x, scale_factor=2, mode="bilinear"),
    "F.avg_pool2d": lambda m, x: F.avg_pool2d(x, x.size(3)),
    "adaptive": lambda m, x: F.adaptive_avg_pool2d(x, 1),
    "einsum-free attention": lambda m, x: torch.matmul(m.weight, x),
}
NOT_AFFINE = {
    "x * x": lambda m, x: x * x,
    "x * f(x)": lambda m, x: x * (x + 1),
    "torch.mul(x, x)": lambda m, x: torch.mul(x, x),
    "x @ x": lambda m, x: x @ x,
    "1 /": lambda m, x: 1 / (x.abs() + 1),
    "abs": lambda m, x: x.abs(),
    "softmax": lambda m, x: x.softmax(1),
    "max": lambda m, x: x.amax(1),
    "exp": lambda m, x: torch.exp(x),
    "** 2": lambda m, x: x**2,
    "floor division": lambda m, x: x // 2,
    "rounded division": lambda m, x: torch.div(x, 2, rounding_mode="floor"),
    "relu": lambda m, x: F.relu(x),
}
MODULES = [
    nn.Conv2d(3, 4, 3), nn.ConvTranspose2d(3, 4, 3), nn.Linear(12, 5), nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(1),
    nn.BatchNorm2d(3), nn.Flatten(), nn.Dropout(), nn.Identity(), nn.ZeroPad2d(1), nn.ConstantPad2d(1, 2.0),
    nn.ReflectionPad2d(1), nn.ReplicationPad2d(1), nn.Upsample(scale_factor=2), nn.PixelUnshuffle(2),
    nn.Unflatten(1, (3, 1)), nn.ChannelShuffle(3),
]  # fmt: skip
NOT_AFFINE_MODULES = [
    nn.ReLU(), nn.LayerNorm(12), nn.GroupNorm(3, 3), nn.Softmax(1), nn.InstanceNorm2d(3),
    nn.BatchNorm2d(3, track_running_stats=False), nn.LPPool2d(2, 2),
]  # fmt: skip


def commutes(model: nn.Module) -> bool:
    """Whether the mean over time may be taken before ``model``."""
    x_seq = torch.randn(T, *IMAGES.shape, generator=torch.Generator().manual_seed(1)).double()
    before, after = model(x_seq.mean(0)), torch.stack([model(x) for x in x_seq]).mean(0)
    return torch.allclose(before, after)


def computed(model: torch.fx.GraphModule) -> list[torch.fx.Node]:
    return [node for node in model.graph.nodes if node.op not in ("placeholder", "output")]


@pytest.mark.parametrize("function", AFFINE)
@torch.no_grad()
def test_affine_functions(function: str) -> None:
    model = graph.trace(Operation(AFFINE[function])).double()
    assert commutes(model)
    assert all(is_affine(model, node) for node in computed(model))
    assert affine_tail(model) == {node for node in computed(model) if node.users}


@pytest.mark.parametrize("function", NOT_AFFINE)
@torch.no_grad()
def test_functions_that_are_not_affine(function: str) -> None:
    model = graph.trace(Operation(NOT_AFFINE[function])).double()
    assert not commutes(model)
    assert not is_affine(model, computed(model)[-1])
    assert not affine_tail(model)


@pytest.mark.parametrize("module", MODULES, ids=repr)
@torch.no_grad()
def test_affine_modules(module: nn.Module) -> None:
    model = graph.trace(nn.Sequential(module)).double()
    assert commutes(model)
    assert all(is_affine(model, node) for node in computed(model))


@pytest.mark.parametrize("module", NOT_AFFINE_MODULES, ids=repr)
@torch.no_grad()
def test_modules_that_are_not_affine(module: nn.Module) -> None:
    model = graph.trace(nn.Sequential(module)).double()
    assert not commutes(model)
    assert not is_affine(model, computed(model)[-1])


def test_batchnorm_in_training_is_not_affine() -> None:
    model = graph.trace(nn.Sequential(nn.BatchNorm2d(3)))
    assert is_affine(model, computed(model)[0])
    assert not is_affine(model.train(), computed(model)[0])


@pytest.mark.parametrize("pool", [nn.MaxPool2d(2), Operation(lambda m, x: F.max_pool2d(input=x, kernel_size=2))])
def test_max_pooling_is_not_affine_but_passes_trains(pool: nn.Module) -> None:
    model = graph.trace(nn.Sequential(nn.ReLU(), pool, nn.Flatten()))
    relu, pool, flatten = computed(model)
    assert not is_affine(model, pool)
    assert affine_tail(model) == {pool, flatten} and relu not in affine_tail(model)


class TwoHeads(nn.Module):
    """A feature that is an output, and also goes through another activation."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.fc1(x)
        return {"features": x, "logits": self.fc3(F.relu(self.fc2(x)) + 1)}


def test_tail_ends_before_the_last_activation_on_every_path() -> None:
    model = graph.trace(TwoHeads())
    graph.standardise_activations(model)
    assert {node.name for node in affine_tail(model)} == {"add", "fc3"}
    assert model(TOKENS)["logits"].shape == (7, 5, 3)
