"""A converted network as integers, for hardware: int8 weights, integer thresholds, code words."""

from __future__ import annotations

import json
import math
import os
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..ann2snn.network import SpikingNetwork
from ..atomic_file import as_path
from ..errors import FileError
from ..functional import encode
from .integer_program import CURRENT, LEVELS, Program, Step, Value
from .integer_steps import program_of
from .names import input_names, output_names
from .torch_module import check_network, observe_network

FORMAT = 1
_LARGEST_WEIGHT = 127
_LARGEST_SUM = 2**31 - 1
_LARGEST_THRESHOLD = 2**20
_FACTOR_BITS = 8  # binary places of the factor of a shortcut, where there is room
_MOST_WORDS = 2**16


def export_integers(snn: SpikingNetwork, folder: str | os.PathLike[str]) -> None:
    """
    Write the network as integers: ``network.json`` lists the operations, ``network.npz`` has the arrays. The layout is
    in ``docs/export.md``, a reader in NumPy in ``examples/run_integers.py``.

    Layers that read levels have int8 weights, int32 biases and an integer threshold for each channel. A layer that
    reads the network's input keeps floats, unless the network was converted with ``input_encoding="spikes"``. Sizes of
    images are those of the calibration data where an average depends on them.

    :param snn: a folded network of convolutions, linear layers, pooling, additions, concatenations and flattening, with
        ReLUs; it is left as it was
    :param folder: where the two files go; it is made, and old files are replaced
    :raises ConfigError: if there is something that integers cannot express; the message names the layer
    :raises FileError: if the files cannot be written
    """
    check_network(snn, "export_integers")
    folder = as_path("folder", folder)
    program = program_of(snn.net, observe_network(snn))
    integers = _Arithmetic(program)
    inputs = [node for node in snn.net.graph.nodes if node.op == "placeholder"]
    structure = {
        "format": FORMAT,
        "time_steps": snn.time_steps,
        "code": _add_code(snn, program, integers.arrays),
        "inputs": dict(zip(input_names(snn.signature), (node.name for node in inputs), strict=True)),
        "outputs": {
            name: {"value": program.name(node), "scale": integers.scale(node)}
            for name, node in zip(output_names(snn.signature), program.outputs, strict=True)
        },
        "steps": integers.records,
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        np.savez(folder / "network.npz", **integers.arrays)
        (folder / "network.json").write_text(json.dumps(structure, indent=1) + "\n")
    except OSError as error:
        raise FileError(f"{folder} cannot be written: {error}") from error


class _Arithmetic:
    """
    The integers of a program.

    ``thresholds`` are for each group of currents how many units make one level, ``[C]``: as many as let the largest
    weight of a channel be a byte. What the network returns has one unit in all channels, to be compared.

    :param program: the operations, with floats
    :raises ConfigError: if a weight or a sum has no room
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self.arrays: dict[str, Any] = {}  # of NumPy
        self.thresholds = _thresholds(program)
        self._largest: dict[str, int] = {}  # no sum in a value is larger, in magnitude
        self.records = [self._record(step) for step in program.steps]

    def scale(self, node: torch.fx.Node) -> float | tuple[float, ...]:
        """What an integer of an output stands for."""
        value = self.program.values[node]
        if value.kind == CURRENT:
            return 1.0 / self._threshold(value)[0].item()
        return value.unit if value.kind == LEVELS else 1.0

    def _threshold(self, value: Value) -> Tensor:
        return self.thresholds[self.program.group(value)]

    def _record(self, step: Step) -> dict[str, object]:
        record = {"op": step.op, "name": step.layer, "inputs": step.inputs, "output": step.node.name}
        settings, tensors = dict(step.settings), {name: t.double().cpu() for name, t in step.tensors.items()}
        if step.result.kind == CURRENT:
            tensors, largest = self._current(step, tensors, settings)
            self._largest[step.node.name] = largest
            record["accumulator_bits"] = largest.bit_length() + 1
            if largest > _LARGEST_SUM:
                bits = record["accumulator_bits"]
                raise self.program.refuse(step.node, f"needs sums of {bits} bits, and there are 32")
        elif "weight" in tensors:
            tensors = {name: value.float() for name, value in tensors.items()}
        elif step.op == "neuron" and step.reads[0].kind == CURRENT:
            theta = self._threshold(step.reads[0])
            tensors["threshold"] = _along(theta, self.program.shape(step.node)).to(torch.int32)
        keys = {name: f"{step.node.name}.{name}" for name in tensors}
        self.arrays.update({keys[name]: value.numpy() for name, value in tensors.items()})
        return record | {"settings": settings, "arrays": keys}

    def _current(
        self, step: Step, tensors: dict[str, Tensor], settings: dict[str, Any]
    ) -> tuple[dict[str, Tensor], int]:
        """The integer arrays of a step that makes a current, and the largest sum; sets the shift of a shortcut."""
        theta = self._threshold(step.result)
        if "weight" in tensors:
            weight = (_weight(step) * theta.view(-1, *[1] * (tensors["weight"].dim() - 1))).round()
            bias = (tensors["bias"] * theta).round()
            largest = (weight.flatten(1).abs().sum(1) * step.reads[0].largest + bias.abs()).amax()
            return {"weight": weight.to(torch.int8), "bias": bias.to(torch.int32)}, int(largest)
        if "factor" not in tensors:
            return {}, sum(self._largest[name] for name in step.inputs)
        shape, factor = self.program.shape(step.node), tensors["factor"]
        factor = (factor[0] if factor.dim() == len(shape) else factor) * _along(theta, shape)
        added = (factor.abs().amax() * step.reads[1].largest).item()
        settings["shift"] = max(0, min(_FACTOR_BITS, int(math.log2(_LARGEST_SUM / 2 / max(added, 1.0)))))
        factor = (factor * 2 ** settings["shift"]).round().to(torch.int32)
        return {"factor": factor}, self._largest[step.inputs[0]] + int(added) + 1


def _weight(step: Step) -> Tensor:
    """The weight of a layer for integers that stand for levels."""
    weight, unit = step.tensors["weight"].double().cpu(), step.reads[0].unit
    if not isinstance(unit, tuple):
        return weight * unit
    groups = step.settings.get("groups", 1)  # each reads channels of its own
    units = weight.new_tensor(unit).view(groups, 1, -1).expand(-1, len(weight) // groups, -1).reshape(len(weight), -1)
    return weight * units.view(*weight.shape[:2], *[1] * (weight.dim() - 2))


def _thresholds(program: Program) -> dict[int, Tensor]:
    largest: dict[int, Tensor] = {}  # weights
    others: dict[int, float] = {}  # biases and shortcuts
    for step in program.steps:
        if step.result.kind != CURRENT:
            continue
        group = program.group(step.result)
        if "weight" in step.tensors:
            top = _weight(step).flatten(1).abs().amax(1)
            largest[group] = torch.maximum(largest.get(group, top), top)
            others[group] = others.get(group, 1.0) + step.tensors["bias"].abs().max().item()
        elif "factor" in step.tensors:
            others[group] += step.tensors["factor"].abs().max().item() * step.reads[1].largest
    for value in (program.values[node] for node in program.outputs):
        if value.kind == CURRENT:
            group = program.group(value)
            largest[group] = largest[group].amax().expand_as(largest[group])
    found = {}
    for group, top in largest.items():
        most = min(_LARGEST_THRESHOLD, _LARGEST_SUM / 4 / others[group])
        found[group] = (_LARGEST_WEIGHT / top.clamp_min(1e-30)).clamp_max(most).floor()
    for step in program.steps:
        if step.result.kind == CURRENT and (found[program.group(step.result)] < 1).any():
            raise program.refuse(step.node, "has weights of more than 127 levels, which int8 cannot hold")
    return found


def _along(theta: Tensor, shape: tuple[int, ...]) -> Tensor:
    """``[C]``, shaped so that it broadcasts over values: channels come first in maps, last in others."""
    return theta.view(-1, *[1] * (len(shape) - 2)) if len(shape) == 4 else theta


def _add_code(snn: SpikingNetwork, program: Program, arrays: dict[str, Any]) -> dict[str, object]:
    """The code of the network's neurons: the weights of its steps, and the train of each level."""
    neurons = [step for step in program.steps if step.op in ("neuron", "encode")]
    if not neurons:
        raise program.refuse(program.outputs[0], "comes after no neuron, so that there is nothing to spike")
    lowest = min(step.settings["lowest"] for step in neurons)
    highest = max(step.settings["highest"] for step in neurons)
    if highest - lowest >= _MOST_WORDS:
        raise program.refuse(neurons[0].node, f"has {highest + 1} levels, too many for a table. Take fewer time_steps")
    code = snn.config.node_type.code
    levels = torch.arange(lowest, highest + 1, dtype=torch.float32)
    arrays["code.words"] = encode(levels, code, snn.time_steps, lowest < 0).to(torch.int8).t().contiguous().numpy()
    arrays["code.weights"] = np.array(code.weights(snn.time_steps), dtype=np.int64)
    return {"name": code.name, "lowest": lowest, "words": "code.words", "weights": "code.weights"}
