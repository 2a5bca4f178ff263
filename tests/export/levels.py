"""Which levels a file makes in ONNX Runtime, and a network that is given them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import torch
from exported import onnx_run
from torch import Tensor, fx

import sj_parallel_conversion as sjpc


def currents_and_levels(path: Path, folder: Path, *inputs: Tensor) -> list[tuple[np.ndarray, np.ndarray]]:
    """
    :param path: a file of ``export_onnx``
    :param folder: for another file
    :param inputs: of the network
    :return: for each neuron, in order, what is rounded down, and the level
    """
    model = onnx.load(path)
    floors = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "Floor"}
    cut = [node for node in model.graph.node if node.op_type == "Clip" and node.input[0] in floors]
    pairs = [(floors[node.input[0]], node.output[0]) for node in cut]
    known = {output.name for output in model.graph.output}
    for name in dict.fromkeys(name for pair in pairs for name in pair if name not in known):
        model.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    onnx.save(model, folder / "with_levels.onnx")
    names = [output.name for output in model.graph.output]
    values = dict(zip(names, onnx_run(folder / "with_levels.onnx", *inputs), strict=True))
    return [(values[current], values[level]) for current, level in pairs]


class WithLevels(fx.Interpreter):
    """
    The network on torch, whose neurons make given levels. :attr:`errors` has the relative difference of the current of
    each neuron from a given one.

    :param snn: a converted network
    :param given: of :func:`currents_and_levels`
    """

    def __init__(self, snn: sjpc.SpikingNetwork, given: list[tuple[np.ndarray, np.ndarray]]) -> None:
        super().__init__(sjpc.to_torch(snn))
        sites = {name for name, module in snn.net.named_modules() if isinstance(module, sjpc.SpikingActivation)}
        nodes = [node for node in self.module.graph.nodes if node.target in sites]
        self.given = dict(zip(nodes, given, strict=True))
        self.errors: list[float] = []

    def run_node(self, node: fx.Node) -> object:
        if node not in self.given:
            return super().run_node(node)
        (x,), _ = self.fetch_args_kwargs_from_env(node)
        neuron = _WithLevel(self.submodules[node.target], *map(torch.from_numpy, self.given[node]))
        y = neuron.run(x)
        self.errors.append(neuron.error)
        return y


class _WithLevel(fx.Interpreter):
    """A neuron that makes a given level: it rounds a given current down."""

    def __init__(self, neuron: fx.GraphModule, current: Tensor, level: Tensor) -> None:
        super().__init__(neuron)
        self.current, self.level, self.error = current, level, 0.0

    def run_node(self, node: fx.Node) -> object:
        name = str(node.target)
        if "floor" in name:
            (x,), _ = self.fetch_args_kwargs_from_env(node)
            self.error = ((x - self.current).abs().max() / x.abs().max()).item()
            return self.current.floor()
        y = super().run_node(node)
        assert "clamp" not in name or torch.equal(y, self.level)
        return y
