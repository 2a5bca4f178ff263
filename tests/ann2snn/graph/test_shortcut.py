"""Membrane shortcuts: which are made, that outputs stay the same to the bit, and how a calibration finds them."""

from __future__ import annotations

import pytest
import torch
import torchvision
from captured import captured, captured_net
from nets import IMAGES, NETS, lively
from torch import Tensor, fx, nn
from torch.nn import functional as F

import sj_parallel_conversion as sjpc
from sj_parallel_conversion.ann2snn import graph
from sj_parallel_conversion.ann2snn.data.inputs import Batch


class Sums(nn.Module):
    """Layers to make sums of, in the way of ``function``."""

    def __init__(self, function) -> None:
        super().__init__()
        self.stem, self.a, self.b = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1)
        self.halve, self.norm, self.act, self.drop = nn.Conv2d(4, 4, 1, 2), nn.BatchNorm2d(4), nn.ReLU6(), nn.Dropout()
        self.qcfs, self.group, self.function = sjpc.QCFS(4), nn.GroupNorm(2, 4), function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, self.stem(x))


def later(x: Tensor) -> Tensor:
    return F.relu(x).mean((2, 3))


# name: network, number of membrane shortcuts
CASES = {
    "identity": (lambda m, z: later(m.a(y := F.relu(z)) + y), 1),
    "other way round": (lambda m, z: later((y := F.relu(z)) + m.a(y)), 1),
    "torch.add": (lambda m, z: later(torch.add(m.a(y := F.relu(z)), y)), 1),
    "scaled by alpha": (lambda m, z: later(torch.add(m.a(y := F.relu(z)), y, alpha=2)), 0),
    "method": (lambda m, z: later(m.a(y := F.relu(z)).add(y)), 1),
    "in place": (lambda m, z: later(m.a(y := F.relu(z)).add_(y)), 1),
    "two blocks": (lambda m, z: later(m.b(y := F.relu(m.a(u := F.relu(z)) + u)) + y), 2),
    "three summands": (lambda m, z: later(m.a(y := F.relu(z)) + m.b(y) + y), 1),
    "normalised branch": (lambda m, z: later(m.norm(m.a(y := F.relu(z))) + y), 1),
    "slices and padding": (
        lambda m, z: later(m.halve(y := F.relu(z)) + F.pad(y[:, 1:3, ::2, ::2], (0, 0, 0, 0, 1, 1))), 1,
    ),
    "dropout": (lambda m, z: later(m.a(y := F.relu(z)) + m.drop(y)), 1),
    "no layer behind the sum": (lambda m, z: m.a(y := F.relu(z)) + y, 1),
    "two sums": (lambda m, z: later((m.a(y := F.relu(z)) + y) * (m.b(y) + y)), 1),
    "a layer on the shortcut": (lambda m, z: later(m.a(y := F.relu(z)) + m.b(y)), 0),
    "pooling on the shortcut": (lambda m, z: later(m.halve(y := F.relu(z)) + F.max_pool2d(y, 2)), 0),
    "padding with ones": (lambda m, z: later(m.a(F.pad(y := F.relu(z), (1, 1))) + F.pad(y, (1, 1), value=1.0)), 0),
    "a slice that a layer reads": (lambda m, z: later(m.a(y := F.relu(z)) + (s := y[:, :, ::1]) + m.b(s)), 0),
    "two calls for one value": (lambda m, z: later(m.a(F.relu(z)) + F.relu(z)), 1),
    "no layer reads the spikes": (lambda m, z: later(m.a(F.relu(m.b(z))) + F.relu(z)), 1),
    "analogue branch": (lambda m, z: later(m.group(m.a(y := F.relu(z))) + y), 1),
    "sum of spikes": (lambda m, z: m.b(F.relu(z) + F.relu(m.a(F.relu(z)))).mean((2, 3)), 0),
    "doubled": (lambda m, z: later(m.a((y := F.relu(z)) + y)), 0),
    "concatenation": (lambda m, z: later(torch.cat([m.a(y := F.relu(z)), y], 1)), 0),
    "difference": (lambda m, z: later(m.a(y := F.relu(z)) - y), 0),
    "pre-activation": (lambda m, z: later(m.a(F.relu(z)) + z), 0),
    "after max pooling": (lambda m, z: later(m.a(y := F.relu(F.max_pool2d(z, 2))) + y), 0),
    "ReLU6": (lambda m, z: later(m.a(y := m.act(z)) + y), 0),
    "QCFS": (lambda m, z: later(m.a(y := m.qcfs(z)) + y), 0),
    "GELU": (lambda m, z: later(m.a(y := F.gelu(z)) + y), 0),
}  # fmt: skip


def plain(ann: nn.Module, x: Tensor = IMAGES) -> fx.GraphModule:
    return captured(ann.eval(), x)[0]


def shortcuts(model: fx.GraphModule) -> list[nn.Module]:
    return [module for module in model.modules() if isinstance(module, graph.ShortcutReLU)]


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_which_shortcuts_are_made(name: str) -> None:
    function, expected = CASES[name]
    ann = lively(Sums(function), IMAGES)
    model = plain(ann)
    graph.membrane_shortcuts(model)
    assert len(shortcuts(model)) == expected
    assert torch.equal(model(IMAGES)[0], ann(IMAGES))
    assert all(node.users or node.op == "output" for node in model.graph.nodes), "something that nobody reads"


@pytest.mark.parametrize(("lower", "kept"), [(0.0, True), (3.0, False), (torch.inf, False)])
@torch.no_grad()
def test_a_value_that_is_negative_at_most_places_is_not_carried(lower: float, kept: bool) -> None:
    ann = lively(Sums(CASES["identity"][0]), IMAGES)
    ann.stem.bias -= lower
    model = plain(ann)
    graph.membrane_shortcuts(model, Batch((IMAGES,), (True,)))
    assert bool(shortcuts(model)) == kept
    assert torch.equal(model(IMAGES)[0], ann(IMAGES))


@pytest.mark.parametrize("name", NETS)
@torch.no_grad()
def test_outputs_stay(name: str) -> None:
    ann, x, model = captured_net(name)
    graph.membrane_shortcuts(model)
    assert torch.equal(model(x.clone())[0], ann(x.clone()))


@pytest.mark.parametrize(("name", "expected"), [("resnet18", 4), ("mobilenet_v2", 0), ("regnet_x_400mf", 18)])
@torch.no_grad()
def test_torchvision(name: str, expected: int) -> None:
    """Shortcuts with a convolution stay: it reads spikes, and so does the first block after max pooling."""
    ann, x = torchvision.models.get_model(name, weights=None, num_classes=5).eval(), torch.randn(2, 3, 64, 64)
    model = plain(ann, x)
    graph.membrane_shortcuts(model)
    assert len(shortcuts(model)) == expected
    assert torch.equal(model(x)[0], ann(x))


@torch.no_grad()
def test_outputs_stay_in_half_precision() -> None:
    ann = lively(Sums(CASES["two blocks"][0]), IMAGES).bfloat16()
    model = plain(ann, IMAGES.bfloat16())
    graph.membrane_shortcuts(model)
    assert torch.equal(model(IMAGES.bfloat16())[0], ann(IMAGES.bfloat16()))


def test_a_relu_with_a_hook_stays() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.act = nn.Linear(3, 4), nn.Linear(4, 4), nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            y = self.act(self.a(x))
            return y + self.b(y)

    for hooked in (False, True):
        model = plain(Block(), torch.randn(2, 3))
        if hooked:
            model.act.register_forward_hook(lambda module, args, output: output + 1)
        graph.membrane_shortcuts(model)
        assert len(shortcuts(model)) == (not hooked)


def test_site_of_a_shared_value() -> None:
    model = plain(lively(Sums(CASES["two blocks"][0]), IMAGES))
    relus = [n for n in model.graph.nodes if n.op == "call_module" and type(model.get_submodule(n.target)) is nn.ReLU]
    values = [relu.args[0] for relu in relus]
    graph.membrane_shortcuts(model)
    assert [graph.shortcut_site(model, value) for value in values] == [*relus[:2], None]
    (negative, _) = [node for node in model.graph.nodes if node.target is torch.ops.aten.neg.default]
    assert graph.shortcut_site(model, negative) is None
    with model.graph.inserting_before(negative):
        model.graph.call_function(torch.abs, (values[0],))
    assert graph.shortcut_site(model, values[0]) is None, "someone else reads it"
