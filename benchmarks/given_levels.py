"""
Which levels an ONNX file makes, beside those of the network.

Two libraries add the products of a convolution in another order. A current on a tie between two levels may so become
the next level, which later layers spread. Nothing else may differ. This is checked from both ends. A network that is
given the levels of the file has its currents and its output. And a level that differs first stands on a tie.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, fx, nn

import sj_parallel_conversion as sjpc

Levels = list[tuple[np.ndarray, np.ndarray]]  # of each neuron, in order: what is rounded down, and the level


class FileWithLevels:
    """
    A file of ``export_onnx``, run on one thread, that also gives its levels.

    :param path: the file
    :param folder: for another file
    """

    def __init__(self, path: Path, folder: Path) -> None:
        model = onnx.load(path)
        floors = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "Floor"}
        cut = [node for node in model.graph.node if node.op_type == "Clip" and node.input[0] in floors]
        self._pairs = [(floors[node.input[0]], node.output[0]) for node in cut]
        self._outputs = [output.name for output in model.graph.output]
        for name in dict.fromkeys(name for pair in self._pairs for name in pair if name not in self._outputs):
            model.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
        onnx.save(model, folder / "with_levels.onnx", save_as_external_data=model.ByteSize() > 2**30)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 3
        self._session = onnxruntime.InferenceSession(
            str(folder / "with_levels.onnx"), options, providers=["CPUExecutionProvider"]
        )

    def run(self, *inputs: Tensor) -> tuple[list[np.ndarray], Levels]:
        """
        :param inputs: of the network
        :return: its outputs, and its levels
        """
        given = {each.name: x.numpy() for each, x in zip(self._session.get_inputs(), inputs, strict=True)}
        names = [output.name for output in self._session.get_outputs()]
        values = dict(zip(names, self._session.run(None, given), strict=True))
        levels = [(values[current], values[level]) for current, level in self._pairs]
        return [values[name] for name in self._outputs], levels


class NetworkWithLevels(fx.Interpreter):
    """
    A network on torch, in packed execution, that keeps the levels that its neurons make.

    :param snn: a converted network
    """

    def __init__(self, snn: sjpc.SpikingNetwork) -> None:
        super().__init__(sjpc.to_torch(snn))
        sites = {name for name, module in snn.net.named_modules() if isinstance(module, sjpc.SpikingActivation)}
        self._sites = [node for node in self.module.graph.nodes if node.target in sites]
        self._given: dict[fx.Node, tuple[np.ndarray, np.ndarray]] = {}
        self._levels: Levels = []
        self._errors: list[float] = []

    def own(self, *inputs: Tensor) -> tuple[object, Levels]:
        """:param inputs: of the network. :return: its output, and its levels"""
        self._given, self._levels = {}, []
        return self.run(*inputs), self._levels

    def given(self, levels: Levels, *inputs: Tensor) -> tuple[object, list[float]]:
        """
        :param levels: that the neurons make in the place of their own
        :param inputs: of the network
        :return: its output, and for each neuron the largest difference of its current from the given one, as a share of
            its largest
        :raises ValueError: if a given level is not what becomes of the given current
        """
        self._given, self._errors = dict(zip(self._sites, levels, strict=True)), []
        return self.run(*inputs), self._errors

    def run_node(self, node: fx.Node) -> object:
        if node not in self._sites:
            return super().run_node(node)
        (x,), _ = self.fetch_args_kwargs_from_env(node)
        neuron = self.submodules[node.target]
        return self._as_given(neuron, x, *self._given[node]) if self._given else self._freely(neuron, x)

    def _freely(self, module: nn.Module, x: Tensor) -> Tensor:
        neuron = _Neuron(module)
        y = neuron.run(x)
        self._levels.append((neuron.current.numpy(), neuron.level.numpy()))
        return y

    def _as_given(self, module: nn.Module, x: Tensor, current: np.ndarray, level: np.ndarray) -> Tensor:
        neuron = _Neuron(module, torch.from_numpy(current))
        y = neuron.run(x)
        if not np.array_equal(neuron.level, level):
            raise ValueError(f"neuron {len(self._errors)} of the file makes other levels of the same currents")
        own = neuron.current.numpy()
        self._errors.append(float(np.abs(own - current).max() / np.abs(own).max()))
        return y


class _Neuron(fx.Interpreter):
    """
    A neuron that keeps its current and its level.

    :param neuron: of ``to_torch``
    :param given: the current that it rounds down in the place of its own
    """

    def __init__(self, neuron: nn.Module, given: Tensor | None = None) -> None:
        super().__init__(neuron)
        self.given, self.current, self.level = given, torch.empty(0), torch.empty(0)

    def run_node(self, node: fx.Node) -> object:
        if node.target is torch.floor:
            ((self.current,), _) = self.fetch_args_kwargs_from_env(node)
            return (self.current if self.given is None else self.given).floor()
        y = super().run_node(node)
        if node.target is torch.clamp:
            self.level = y
        return y


def distance_from_ties(own: Levels, other: Levels) -> float | None:
    """
    :param own: the levels of a sample. It has to be one: each sample has its own first neurons with other levels
    :param other: those of another program
    :return: of the first neurons that make other levels, the largest distance of such a current from the tie between
        the two levels. It is a share of the neuron's largest current, and infinite if levels differ by more than one.
        ``None`` if all levels are equal
    """
    for (current, level), (_, theirs) in zip(own, other, strict=True):
        differs = level != theirs
        if differs.any():
            if np.abs(level - theirs).max() > 1:
                return np.inf
            tie = np.maximum(level, theirs)[differs]
            return float(np.abs(current[differs] - tie).max() / np.abs(current).max())
    return None
