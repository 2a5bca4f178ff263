"""Tracing: activations of this project stay whole, and errors point at the user's line."""

from __future__ import annotations

import copy
import pickle
import threading

import pytest
import torch
from nets import IMAGES, NETS, InplaceAdd, InplaceOfView, net
from torch import Tensor, nn
from torch.nn import functional as F

import sj_parallel_conversion as sjpc
from sj_parallel_conversion.ann2snn import graph


class ControlFlow(nn.Module):
    """A branch that depends on a value."""

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:  # this line is in the message
            return x.relu()
        return x


class LoopOverSize(nn.Module):
    """A loop whose length depends on a size."""

    def forward(self, x: Tensor) -> Tensor:
        for i in range(x.shape[0]):  # this line is in the message
            x[i] = x[i].relu()
        return x


class Optional(nn.Module):
    """Arguments that the caller need not give."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor, mask: Tensor | None = None, features: bool = False, scale: float = 2.0) -> Tensor:
        x = F.relu(self.conv(x)) * scale
        if mask is not None:
            x = x * mask
        return x if features else x.mean((2, 3))


class OptionalInput(nn.Module):
    """The input itself has a default."""

    def forward(self, x: Tensor | None = None) -> Tensor:
        return F.relu(x)


@pytest.mark.parametrize("model", [ControlFlow(), nn.Sequential(nn.Conv2d(3, 4, 3), LoopOverSize())])
def test_errors_name_file_and_line(model: nn.Module) -> None:
    with pytest.raises(sjpc.ConversionError, match=f"cannot trace {type(model).__name__}") as error:
        graph.trace(model)
    message = str(error.value)
    assert __file__ in message and "# this line is in the message" in message
    assert "Replace control flow" in message
    assert error.value.__cause__ is not None


@pytest.mark.parametrize("model", [None, 3, F.relu, "net", nn.ReLU])
def test_not_a_module(model: object) -> None:
    with pytest.raises(sjpc.ConversionError, match=r"torch\.nn\.Module, got"):
        graph.trace(model)


def test_a_model_that_cannot_be_copied() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
    model.last = threading.Lock()
    with pytest.raises(sjpc.ConversionError, match="Sequential cannot be copied"):
        graph.trace(model)


def test_a_model_that_holds_results_can_be_copied() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
    model.last = model(torch.ones(1, 3))  # deepcopy refuses results of a forward pass
    assert graph.trace(model)(torch.ones(1, 3)).shape == (1, 4)
    assert model.last.requires_grad


@pytest.mark.parametrize("activation", [sjpc.QCFS(4), sjpc.DAQCFS(4), sjpc.ClipReLU()])
def test_own_activations_are_leaves(activation: nn.Module) -> None:
    model = graph.trace(nn.Sequential(nn.Linear(3, 4), activation))
    assert [type(m) for m in model.children()] == [nn.Linear, type(activation)]
    assert sum(node.op == "call_module" for node in model.graph.nodes) == 2


@torch.no_grad()
def test_optional_arguments_have_their_defaults() -> None:
    ann = Optional().eval()
    assert torch.equal(graph.trace(ann)(IMAGES), ann(IMAGES))
    assert torch.equal(graph.trace(OptionalInput())(IMAGES), IMAGES.relu())


@pytest.mark.parametrize("name", ["shared relu", "concatenated", "conv 2d"])
def test_the_original_is_left_as_it_was(name: str) -> None:
    ann, _ = net(name)
    ann.train()
    next(ann.parameters()).requires_grad_(False)
    before = copy.deepcopy(ann.state_dict())
    model = graph.trace(ann)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert all(module.training for module in ann.modules())
    assert not any(module.training for module in model.modules())
    assert all(torch.equal(before[key], value) for key, value in ann.state_dict().items())
    storages = {p.untyped_storage().data_ptr() for p in [*ann.parameters(), *ann.buffers()]}
    assert storages.isdisjoint(p.untyped_storage().data_ptr() for p in [*model.parameters(), *model.buffers()])


def test_backward_hooks_stay_with_the_model() -> None:
    """A calibration with gradients is no training of the user's."""
    ann, calls = net("mlp")[0], []
    for module in ann.modules():
        module.register_full_backward_hook(lambda *args: calls.append("after"))
        module.register_full_backward_pre_hook(lambda *args: calls.append("before"))
    graph.trace(ann)(net("mlp")[1]).sum().backward()
    assert not calls
    ann(net("mlp")[1].requires_grad_()).sum().backward()
    assert "before" in calls and "after" in calls


def test_traced_networks_pickle() -> None:
    ann, x = net("concatenated")
    model = pickle.loads(pickle.dumps(graph.trace(ann)))
    assert torch.equal(model(x), ann(x))


class Changing(nn.Module):
    """A value that differs from call to call."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        type(self).calls += 1
        return F.relu(x) * type(self).calls


@pytest.mark.parametrize("make", [InplaceAdd, InplaceOfView, Changing])
def test_a_graph_that_computes_something_else_is_refused(make) -> None:
    """``out += x`` on a tensor that has another name too, and an in-place operation on a view: fx sees neither."""
    ann = make().eval()
    model = graph.trace(ann)
    graph.remove_inplace(model)
    with pytest.raises(sjpc.ConversionError, match=f"{make.__name__} computes something else"):
        graph.check_outputs(ann, model, IMAGES)
    with pytest.raises(sjpc.ConversionError, match="computes something else"):
        sjpc.ParallelConverter([IMAGES], threshold="max", calibration="none", show_progress=False).convert(ann)


@pytest.mark.parametrize("name", NETS)
def test_a_graph_that_computes_the_same_is_accepted(name: str) -> None:
    ann, x = net(name)
    ann.train()  # checked in evaluation mode, whatever the mode of the original
    kept, model = x.clone(), graph.trace(ann)
    graph.check_outputs(ann, model, x)
    assert ann.training and torch.equal(x, kept)
