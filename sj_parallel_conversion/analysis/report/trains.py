"""The spike trains of some neurons, and the same values in every code."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...ann2snn.data.inputs import Batch, Call
from ...ann2snn.network.spiking_network import SpikingNetwork
from ...functional import CODES, Code, decode, encode
from ...neuron import SpikingNode
from ...neuron.spiking_activation import SpikingActivation
from ..macs import record_calls
from ..neuron_errors import in_levels
from .networks import Converted, spiking_layers

_LAYERS = 3
_NEURONS = 8  # of each layer
_WEIGHTED_STEPS = 8  # 256 levels, more than a picture can show


def record_trains(snn: Converted, call: Call) -> list[dict[str, Any]]:
    """
    :param snn: a converted network
    :param call: its first sample is run
    :return: some layers, from the first to the last: ``name``, ``code``, ``time_steps``, ``max_level`` and ``neurons``.
        Of these there are some of those that fire, the strongest first: ``index`` in the layer's output, ``value`` in
        levels before it is rounded, ``level`` and ``train``
    """
    sites = list(spiking_layers(snn))
    places = np.unique(np.linspace(0, len(sites) - 1, min(_LAYERS, len(sites))).round().astype(int))
    chosen = [sites[i] for i in places]
    found: dict[SpikingActivation, tuple[Tensor, Tensor]] = {}
    hooks = [site.register_forward_pre_hook(_recorder(found)) for _, site in chosen]
    try:
        for part, batch in _first_samples(snn, call):
            part.net(*batch.clone().tensors)
    finally:
        for hook in hooks:
            hook.remove()
    return [_layer(name, site.node, *found[site]) for name, site in chosen if site in found]


def in_every_code(layer: dict[str, Any]) -> list[dict[str, Any]]:
    """
    :param layer: one of :func:`record_trains`
    :return: for each code the trains that stand for the values of the same neurons, as near as its levels allow
    """
    return [_in_code(code, layer) for code in CODES.values()]


def _recorder(found: dict[SpikingActivation, tuple[Tensor, Tensor]]) -> Callable[..., None]:
    def record(module: SpikingActivation, args: tuple[Any, ...]) -> None:
        node, x = module.node, args[0].clone()
        if module not in found:
            found[module] = node.spikes(node.constant(x)).cpu(), in_levels(node, x).cpu()

    return record


def _first_samples(snn: Converted, call: Call) -> Iterator[tuple[SpikingNetwork, Batch]]:
    if isinstance(snn, SpikingNetwork):
        yield snn, _first_sample(snn, snn.signature.batch(*call))
        return
    for name, batches in record_calls(snn, call).inputs.items():
        yield snn.parts[name], _first_sample(snn.parts[name], batches[0])


def _first_sample(snn: SpikingNetwork, batch: Batch) -> Batch:
    return batch if snn.signature.sizes.fixed_batch else batch.select(slice(0, 1))


def _layer(name: str, node: SpikingNode, train: Tensor, values: Tensor) -> dict[str, Any]:
    levels = decode(train, node.code).flatten()
    levels = levels.where(levels.isfinite(), 0)
    order = values.flatten().abs().argsort(descending=True, stable=True)
    order = order[levels[order].abs().argsort(descending=True, stable=True)]
    firing = order[: max(int(levels.count_nonzero()), 1)]
    places = np.unique(np.linspace(0, len(firing) - 1, min(_NEURONS, len(firing))).round().astype(int))
    rows = train.flatten(1)
    neurons = [
        {
            "index": [int(i) for i in np.unravel_index(unit, tuple(train.shape[1:]))],
            "value": float(values.flatten()[unit]),
            "level": int(levels[unit]),
            "train": rows[:, unit].int().tolist(),
        }
        for unit in firing[torch.from_numpy(places)].tolist()
    ]
    size = {"time_steps": node.T, "max_level": int(node.code.max_level(node.T))}
    return {"name": name, "code": node.code.name, **size, "neurons": neurons}


def _in_code(code: Code, layer: dict[str, Any]) -> dict[str, Any]:
    own = code.name == layer["code"]
    steps = layer["time_steps"] if own or not code.weighted else min(layer["time_steps"], _WEIGHTED_STEPS)
    highest = int(code.max_level(steps))
    if own:
        neurons = [{"level": neuron["level"], "train": neuron["train"]} for neuron in layer["neurons"]]
    else:
        values = torch.tensor([neuron["value"] for neuron in layer["neurons"]], dtype=torch.float64)
        levels = (values / layer["max_level"] * highest).round().clamp(-highest, highest)
        # A train of the network may be that of a negative level. Then these are, too.
        signed = any(neuron["level"] < 0 for neuron in layer["neurons"])
        levels = levels if signed else levels.clamp_min(0)
        trains = encode(levels, code, steps, signed)
        neurons = [{"level": int(k), "train": trains[:, i].int().tolist()} for i, k in enumerate(levels)]
    return {
        "code": code.name, "own": own, "time_steps": steps, "max_level": highest,
        "weights": [int(weight) for weight in code.weights(steps)], "neurons": neurons,
    }  # fmt: skip
