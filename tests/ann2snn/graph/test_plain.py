"""Graphs are copied and saved node by node, whatever their arguments are, and torch.compile takes them whole."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from captured import captured
from torch import Tensor, nn
from torch.nn import functional as F

X = torch.randn(4, 6, 8, 8, generator=torch.Generator().manual_seed(0))
BODIES: dict[str, Callable[[nn.Module, Tensor], object]] = {
    "sizes": lambda m, x: x.view(x.shape[0], -1, x.shape[3]) + x.shape[2] // 3,
    "lists": lambda m, x: torch.cat([x[:, :2], *x.split([3, 3], 1)], 1),
    "slices": lambda m, x: x[:, 1:-1, ::2, x.shape[3] // 2 :],
    "dtypes": lambda m, x: x.to(torch.float64).sum(1).float() + torch.arange(x.shape[3], dtype=x.dtype),
    "constants": lambda m, x: x * m.scale + m.table[:6].view(-1, 1, 1),
    "composed": lambda m, x: x * torch.sigmoid(m.scale * x),
    "nothing to keep": lambda m, x: F.pad(x, (1, 0)).flatten(1),
}


class Body(nn.Module):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.conv, self.name, self.scale = nn.Conv2d(6, 6, 3, padding=1), name, nn.Parameter(torch.tensor(1.7))
        self.register_buffer("table", torch.arange(8.0))

    def forward(self, x: Tensor) -> object:
        return BODIES[self.name](self, torch.relu(self.conv(x)))


@pytest.mark.parametrize("name", BODIES)
@torch.no_grad()
def test_copies_compute_the_same_and_share_nothing(name: str) -> None:
    ann = Body(name).eval()
    net, signature = captured(ann, X)
    other = torch.randn(3, 6, 8, 8)
    saved = pickle.loads(pickle.dumps(net))
    for twin in (net, copy.deepcopy(net), saved, copy.deepcopy(saved)):
        assert torch.equal(signature.build(twin(other)), ann(other))
        assert [node.name for node in twin.graph.nodes] == [node.name for node in net.graph.nodes]
        assert [node.meta.get("shape") for node in twin.graph.nodes] == [n.meta.get("shape") for n in net.graph.nodes]
        assert twin.state_dict().keys() == net.state_dict().keys()
        if twin is not net:
            assert not {p.data_ptr() for p in twin.parameters()} & {p.data_ptr() for p in net.parameters()}


def test_a_graph_that_is_changed_is_saved_as_it_is() -> None:
    net, _ = captured(Body("constants").eval(), X)
    (output,) = (node for node in net.graph.nodes if node.op == "output")
    with net.graph.inserting_before(output):
        output.args = ((net.graph.call_function(torch.ops.aten.neg.default, (output.args[0][0],)),),)
    net.recompile()
    twin = pickle.loads(pickle.dumps(net))
    assert torch.equal(twin(X)[0], net(X)[0]) and float(twin(X)[0].detach().sum()) < 0


def test_training_flags_and_frozen_parameters_stay() -> None:
    ann = Body("constants").eval()
    ann.conv.weight.requires_grad_(False)
    net, _ = captured(ann, X)
    for twin in (net, copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert not twin.training and not twin.conv.weight.requires_grad and twin.conv.bias.requires_grad
        assert twin.scale.requires_grad


@pytest.mark.slow
@torch.no_grad()
def test_compiles_without_a_break() -> None:
    net, _ = captured(Body("composed").eval(), X)
    torch.testing.assert_close(torch.compile(net, fullgraph=True, backend="eager")(X), net(X))
