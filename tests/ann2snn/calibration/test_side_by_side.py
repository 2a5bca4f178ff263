"""Two networks through one graph: values, order of the visits, and what a visitor changes."""

from __future__ import annotations

import copy

import pytest
import torch
from captured import captured, captured_net
from torch import fx, nn

from sj_parallel_conversion.ann2snn import graph
from sj_parallel_conversion.ann2snn.calibration.side_by_side import Sweep, Visitor
from sj_parallel_conversion.ann2snn.data.inputs import Batch

NAMES = ["shared relu", "shared conv", "concatenated", "conv 3d", "tokens", "norm of two convs"]


def pair(name: str) -> tuple[fx.GraphModule, fx.GraphModule, set[str], list[Batch]]:
    _, x, model = captured_net(name)
    sites = [node.target for node in graph.activation_sites(model)]
    other = copy.deepcopy(model)
    for site in sites:
        graph.replace_module(other, site, nn.ReLU6())
    return model, other, set(sites), [Batch((y,), (True,)) for y in (x, x * 3, x[:1] * 9)]


class Recorder(Visitor):
    """Notes what is seen."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []
        self.outputs: dict[str, tuple[list, list]] = {}

    def before(self, node: fx.Node, ann_input: list, snn_input: list) -> None:
        assert len(ann_input) == len(snn_input) == 3
        self.seen.append(("before", node.target))

    def after(self, node: fx.Node, snn_input: list, ann_output: list, snn_output: list) -> None:
        assert len(snn_input) == len(ann_output) == len(snn_output) == 3
        self.seen.append(("after", node.target))
        self.outputs[node.target] = list(ann_output), list(snn_output)


def outputs_of(module: nn.Module, model: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    """What ``module`` gives in each of its calls while ``model`` runs."""
    found: list[torch.Tensor] = []
    handle = module.register_forward_hook(lambda module, args, output: found.append(output.clone()))
    model(x)
    handle.remove()
    return found


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_outputs_are_those_of_the_networks(name: str) -> None:
    ann, snn, sites, batches = pair(name)
    recorder = Recorder()
    Sweep(ann, snn, sites).run(batches, recorder)
    for site, both in recorder.outputs.items():
        for model, outputs in zip((ann, snn), both, strict=True):
            expected = [outputs_of(model.get_submodule(site), model, x.tensors[0]) for x in batches]
            assert all(torch.equal(y, calls[-1]) for y, calls in zip(outputs, expected, strict=True))
    order = [node.target for node in ann.graph.nodes if node.target in sites]
    assert recorder.seen == [(when, site) for site in order for when in ("before", "after")]


@torch.no_grad()
def test_changes_of_a_visitor_take_effect_at_once() -> None:
    ann, snn, sites, batches = pair("concatenated")

    class Restore(Visitor):
        """Puts the ANN's activation back before it runs."""

        def before(self, node: fx.Node, ann_input: list, snn_input: list) -> None:
            for a, b in zip(ann_input, snn_input, strict=True):
                assert torch.equal(a, b)
            graph.replace_module(snn, node.target, ann.get_submodule(node.target))

    Sweep(ann, snn, sites).run(batches, Restore())
    assert all(torch.equal(snn(*x.tensors)[0], ann(*x.tensors)[0]) for x in batches)


@torch.no_grad()
def test_inputs_are_left_as_they_were() -> None:
    ann, snn, sites, batches = pair("shared relu")
    before = [x.clone() for x in batches]
    Sweep(ann, snn, sites).run(batches, Visitor())
    assert all(torch.equal(a.tensors[0], b.tensors[0]) for a, b in zip(before, batches, strict=True))


class Merged(nn.Module):
    """Two inputs, of which one reaches the sites late."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.act, self.act2 = nn.Linear(3, 4), nn.Linear(4, 2), nn.ReLU(), nn.ReLU()

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        z = self.act(self.a(x))
        return self.act2(self.b(z) * y), z


@torch.no_grad()
def test_networks_of_several_inputs() -> None:
    ann = captured(Merged(), (torch.randn(4, 3), torch.randn(4, 2)))[0]
    snn = copy.deepcopy(ann)
    graph.replace_module(snn, "act", nn.ReLU6())
    batches = [Batch((9 * torch.randn(n, 3), torch.randn(n, 2)), (True, True)) for n in (4, 1, 3)]
    recorder = Recorder()
    Sweep(ann, snn, {"act"}, at={"act2"}).run(batches, recorder)
    for model, outputs in zip((ann, snn), recorder.outputs["act2"], strict=True):
        expected = [model(*batch.tensors)[0] for batch in batches]
        assert all(torch.equal(y, z) for y, z in zip(outputs, expected, strict=True))
