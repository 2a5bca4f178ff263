"""Layers and activations have the names that the model gives them, and so have their weights in the state dict."""

from __future__ import annotations

import pytest
import torch
from captured import captured
from torch import Tensor, nn
from torch.nn import functional as F

X = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))


class Block(nn.Module):
    """Layers as modules and as functions with parameters of the block's own."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.act = nn.Linear(6, 6), nn.ReLU()
        self.weight, self.in_proj_weight = nn.Parameter(torch.randn(6, 6)), nn.Parameter(torch.randn(6, 6))
        self.scale = nn.Parameter(torch.randn(6))

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.first(x))
        x = F.relu(F.linear(x, self.weight))
        return self.act(F.linear(x, self.in_proj_weight)) * self.scale


def names_of(ann: nn.Module, x: Tensor = X) -> dict[str, str]:
    """The modules of the graph of ``ann``: name and class."""
    net, _ = captured(ann.eval(), x)
    calls = [node.target for node in net.graph.nodes if node.op == "call_module"]
    return {name: type(net.get_submodule(name)).__name__ for name in calls}


def test_modules_functions_and_second_calls() -> None:
    found = names_of(nn.Sequential(Block(), nn.Linear(6, 3)))
    assert found == {
        "0.first": "Linear", "0.act": "ReLU", "0.linear": "Linear", "0.relu": "ReLU", "0.in_proj": "Linear",
        "0.act_1": "ReLU", "1": "Linear",
    }  # fmt: skip


def test_the_state_dict_has_the_anns_names() -> None:
    ann = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.ReLU(), Block(), nn.LayerNorm(6), nn.Linear(6, 3)).eval()
    net, _ = captured(ann, X)
    moved = {"3.weight", "3.in_proj_weight"}  # of functions: they belong to a layer now
    assert set(ann.state_dict()) - set(net.state_dict()) == moved
    for name in set(ann.state_dict()) - moved:
        assert torch.equal(net.state_dict()[name], ann.state_dict()[name]), name


class Tied(nn.Module):
    """An embedding whose weight is that of the last layer, too."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(9, 6), nn.Linear(6, 9, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.embed(x)))


def test_tied_weights_become_two_layers() -> None:
    net, _ = captured(Tied().eval(), torch.randint(0, 9, (4, 5)))
    assert {"embed.weight", "head.weight"} == set(net.state_dict())
    assert net.embed.weight is not net.head.weight and torch.equal(net.embed.weight, net.head.weight)


class Shared(nn.Module):
    """One layer at two places, under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(6, 6)
        self.b = self.a

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.b(torch.relu(self.a(x))))


def test_shared_layers_become_two() -> None:
    names = names_of(Shared())
    assert sorted(names.values()) == ["Linear", "Linear", "ReLU", "ReLU"] and len(set(names)) == 4


@pytest.mark.parametrize("norm", [nn.utils.parametrizations.weight_norm, nn.utils.weight_norm, nn.utils.spectral_norm])
@pytest.mark.filterwarnings("ignore")
def test_computed_weights_have_the_layers_name(norm: object) -> None:
    ann = nn.Sequential(norm(nn.Linear(6, 6)), nn.ReLU(), nn.Linear(6, 2))
    ann(X)
    assert list(names_of(ann)) == ["0", "1", "2"]
