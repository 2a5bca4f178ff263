"""Two networks through one graph: values, order of the visits, and what a visitor changes."""

from __future__ import annotations

import copy

import pytest
import torch
from nets import net
from torch import fx, nn

from sj_parallel_conversion.ann2snn import graph
from sj_parallel_conversion.ann2snn.sweep import Sweep, Visitor

NAMES = ["shared relu", "shared conv", "concatenated", "conv 3d", "tokens", "norm of two convs"]


def pair(name: str) -> tuple[fx.GraphModule, fx.GraphModule, set[str], list[torch.Tensor]]:
    ann, x = net(name)
    model = graph.trace(ann)
    graph.remove_inplace(model)
    graph.standardise_activations(model)
    graph.one_module_per_call(model)
    sites = [node.target for node in graph.activation_sites(model)]
    other = copy.deepcopy(model)
    for site in sites:
        graph.replace_module(other, site, nn.ReLU6())
    return model, other, set(sites), [x, x * 3, x[:1] * 9]


class Recorder(Visitor):
    """Notes what is seen, and compares it with forward hooks."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []

    def before(self, node: fx.Node, ann_input: list, snn_input: list) -> None:
        assert len(ann_input) == len(snn_input) == 3
        self.seen.append(("before", node.target))

    def after(self, node: fx.Node, snn_input: list, ann_output: list, snn_output: list) -> None:
        assert len(snn_input) == len(ann_output) == len(snn_output) == 3
        self.seen.append(("after", node.target))


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_outputs_are_those_of_the_networks(name: str) -> None:
    ann, snn, sites, batches = pair(name)
    recorder = Recorder()
    ann_outputs, snn_outputs = Sweep(ann, snn, sites).run(batches, recorder)
    for x, y_ann, y_snn in zip(batches, ann_outputs, snn_outputs, strict=True):
        assert torch.equal(y_ann, ann(x)) and torch.equal(y_snn, snn(x))
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

    ann_outputs, snn_outputs = Sweep(ann, snn, sites).run(batches, Restore())
    assert all(torch.equal(a, b) for a, b in zip(ann_outputs, snn_outputs, strict=True))


@torch.no_grad()
def test_inputs_are_left_as_they_were() -> None:
    ann, snn, sites, batches = pair("shared relu")
    before = [x.clone() for x in batches]
    Sweep(ann, snn, sites).run(batches, Visitor())
    assert all(torch.equal(a, b) for a, b in zip(before, batches, strict=True))
