"""Blocks: residual blocks are found, one value leaves each, and together they are the network."""

from __future__ import annotations

import pytest
import torch
from captured import captured
from helpers.models import cifar_resnet
from torch import Tensor, fx, nn

from sj_parallel_conversion.ann2snn import graph
from sj_parallel_conversion.ann2snn.calibration.blocks import Block, find_blocks
from sj_parallel_conversion.ann2snn.data.inputs import Batch
from sj_parallel_conversion.ann2snn.graph.shapes import record_shapes


class Doubled(nn.Module):
    """A mask of the input, and a size of it, are read by all blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(6, 6) for _ in range(5))

    def forward(self, x: Tensor) -> Tensor:
        mask = x > 0
        y = x
        for layer in self.layers:
            y = layer(y).relu() * mask
        return y.reshape(x.shape[0], 2, 3).sum(2)


class Dense(nn.Module):
    """What a neuron gives is read to the end, so that no value is alone."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(6, 6) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        first = y = self.layers[0](x).relu()
        for layer in self.layers[1:]:
            y = layer(y).relu()
        return y - first


def plain(layers: int) -> nn.Module:
    modules = [module for _ in range(layers) for module in (nn.Linear(6, 6), nn.ReLU())]
    return nn.Sequential(*modules, nn.Linear(6, 2))


def blocks_of(ann: nn.Module, x: Tensor, membrane: bool = False) -> tuple[fx.GraphModule, list[Block]]:
    model, _ = captured(ann.eval(), x)
    graph.activation_sites(model)
    record_shapes(model, Batch((x,), (True,)))
    if membrane:
        graph.membrane_shortcuts(model)
    sites = graph.activation_sites(model)
    record_shapes(model, Batch((x,), (True,)))
    return model, find_blocks(model, {node.target for node in sites})


CASES = {
    "plain": (plain(4), (4, 6), 2),
    "one neuron": (plain(1), (4, 6), 1),
    "two neurons": (plain(2), (4, 6), 1),
    "mask": (Doubled(), (4, 6), 2),
    "dense": (Dense(), (4, 6), 1),
    "resnet": (cifar_resnet("resnet20"), (2, 3, 32, 32), 9),
}


@torch.no_grad()
@pytest.mark.parametrize("membrane", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_blocks_one_behind_the_other_are_the_network(name: str, membrane: bool) -> None:
    ann, shape, count = CASES[name]
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    model, blocks = blocks_of(ann, x, membrane)
    assert len(blocks) == 1 + count  # the first is what runs before the neurons
    values = {node: x for node in model.graph.nodes if node.op == "placeholder"}
    for block in blocks:
        found = block.of(model)(*(values[node] for node in block.inputs))
        values |= dict(zip(block.outputs, found, strict=True))
    assert torch.equal(values[blocks[-1].changed], model(x)[0])
    run = [node for block in blocks for node in block.nodes]
    assert run == [node for node in model.graph.nodes if node.op not in ("placeholder", "get_attr", "output")]


def test_a_residual_block_is_a_block() -> None:
    x = torch.randn(2, 3, 32, 32)
    for membrane in (False, True):
        _, blocks = blocks_of(cifar_resnet("resnet20"), x, membrane)
        assert [block.changed.name.split("_")[0] for block in blocks[1:-1]] == ["add"] * 8
        layers = [n.target for n in blocks[3].nodes if n.op == "call_module" and "conv" in str(n.target)]
        assert layers == ["layer1.2.conv1", "layer1.2.conv2"]
