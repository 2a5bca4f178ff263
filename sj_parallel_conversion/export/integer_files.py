"""A converted network as integers, for hardware: int8 weights, integer thresholds, code words."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..ann2snn.network import SpikingNetwork
from ..errors import FileError
from ..functional import encode
from .integer_program import CURRENT, LEVELS, Program, Step
from .integer_steps import program_of
from .names import input_names, output_names
from .torch_module import check_network, observe_network

FORMAT = 1
_LARGEST_WEIGHT = 127
_LARGEST_SUM = 2**31 - 1
_LARGEST_THRESHOLD = 2**20
_FACTOR_BITS = 8  # binary places of the factor of a shortcut
_MOST_WORDS = 2**16


def export_integers(snn: SpikingNetwork, folder: str | os.PathLike) -> None:
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
    program = program_of(snn.net, observe_network(snn))
    arrays: dict[str, np.ndarray] = {}
    thresholds = _thresholds(program)
    steps = [_record(program, step, thresholds, arrays) for step in program.steps]
    inputs = [node for node in snn.net.graph.nodes if node.op == "placeholder"]
    structure = {
        "format": FORMAT,
        "time_steps": snn.time_steps,
        "code": _add_code(snn, program, arrays),
        "inputs": dict(zip(input_names(snn.signature), (node.name for node in inputs), strict=True)),
        "outputs": {
            name: {"value": program.name(node), "scale": _scale(program, node, thresholds)}
            for name, node in zip(output_names(snn.signature), program.outputs, strict=True)
        },
        "steps": steps,
    }
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        np.savez(folder / "network.npz", **arrays)
        (folder / "network.json").write_text(json.dumps(structure, indent=1) + "\n")
    except OSError as error:
        raise FileError(f"{folder} cannot be written: {error}") from error


def _weight(step: Step) -> Tensor:
    """The weight of a layer for integers that stand for levels."""
    weight, unit = step.tensors["weight"].double().cpu(), step.reads[0].unit
    if not isinstance(unit, tuple):
        return weight * unit
    groups = step.settings.get("groups", 1)  # each reads channels of its own
    units = weight.new_tensor(unit).view(groups, 1, -1).expand(-1, len(weight) // groups, -1).reshape(len(weight), -1)
    return weight * units.view(*weight.shape[:2], *[1] * (weight.dim() - 2))


def _thresholds(program: Program) -> dict[int, Tensor]:
    """
    For each group of currents how many units of them make one level, ``[C]`` integers: as many as let the largest
    weight of a channel be a byte. What the network returns has the same unit in all channels, to be compared.
    """
    largest: dict[int, Tensor] = {}
    offsets: dict[int, Tensor] = {}
    for step in program.steps:
        if step.result.kind == CURRENT and "weight" in step.tensors:
            group = program.group(step.result)
            top, bias = _weight(step).flatten(1).abs().amax(1), step.tensors["bias"].double().cpu().abs()
            largest[group] = torch.maximum(largest.get(group, top), top)
            offsets[group] = offsets.get(group, 0) + bias
    returned = {program.group(v) for v in map(program.values.get, program.outputs) if v.kind == CURRENT}
    for group in returned:
        largest[group] = largest[group].amax().expand_as(largest[group])
        offsets[group] = offsets[group].amax().expand_as(offsets[group])
    found = {}
    for group, top in largest.items():
        most = (_LARGEST_SUM / 4 / (offsets[group] + 1)).clamp_max(_LARGEST_THRESHOLD)
        found[group] = torch.minimum(_LARGEST_WEIGHT / top.clamp_min(1e-30), most).floor()
    for step in program.steps:
        if step.result.kind == CURRENT and (found[program.group(step.result)] < 1).any():
            raise program.refuse(step.node, "has weights of more than 127 levels, which int8 cannot hold")
    return found


def _record(program: Program, step: Step, thresholds: dict[int, Tensor], arrays: dict[str, np.ndarray]) -> dict:
    record = {"op": step.op, "name": step.layer, "inputs": step.inputs, "output": step.node.name}
    settings, tensors = dict(step.settings), {name: t.double().cpu() for name, t in step.tensors.items()}
    if step.result.kind == CURRENT and "weight" in tensors:
        theta = thresholds[program.group(step.result)]
        weight = (_weight(step) * theta.view(-1, *[1] * (step.tensors["weight"].dim() - 1))).round()
        bias = (tensors["bias"] * theta).round()
        bits = _bits(weight, bias, step)
        if bits > 32:
            raise program.refuse(step.node, f"needs sums of {bits} bits, and there are 32")
        record["accumulator_bits"] = bits
        tensors = {"weight": weight.to(torch.int8), "bias": bias.to(torch.int32)}
    elif "weight" in tensors:
        tensors = {name: value.float() for name, value in tensors.items()}
    elif step.op == "neuron" and step.reads[0].kind == CURRENT:
        theta = thresholds[program.group(step.reads[0])]
        tensors["threshold"] = _along(theta, program.shape(step.node)).to(torch.int32)
    elif "factor" in tensors:
        theta = _along(thresholds[program.group(step.result)], program.shape(step.node))
        factor = tensors["factor"][0] if tensors["factor"].dim() == len(program.shape(step.node)) else tensors["factor"]
        tensors = {"factor": (factor * theta * 2**_FACTOR_BITS).round().to(torch.int32)}
        settings["shift"] = _FACTOR_BITS
    record["settings"] = settings
    record["arrays"] = {name: f"{step.node.name}.{name}" for name in tensors}
    arrays.update({f"{step.node.name}.{name}": value.numpy() for name, value in tensors.items()})
    return record


def _along(theta: Tensor, shape: tuple[int, ...]) -> Tensor:
    """``[C]``, shaped so that it broadcasts over values: channels come first in maps, last in others."""
    return theta.view(-1, *[1] * (len(shape) - 2)) if len(shape) == 4 else theta


def _bits(weight: Tensor, bias: Tensor, step: Step) -> int:
    """The bits of an integer that holds every sum of the layer."""
    largest = (weight.flatten(1).abs().sum(1) * step.reads[0].largest + bias.abs()).amax()
    return int(largest.item()).bit_length() + 1


def _scale(program: Program, node: torch.fx.Node, thresholds: dict[int, Tensor]) -> float:
    """What an integer of an output stands for."""
    value = program.values[node]
    if value.kind == CURRENT:
        return 1.0 / thresholds[program.group(value)][0].item()
    return value.unit if value.kind == LEVELS else 1.0


def _add_code(snn: SpikingNetwork, program: Program, arrays: dict[str, np.ndarray]) -> dict[str, object]:
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
