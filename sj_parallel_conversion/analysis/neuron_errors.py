"""Measures the error at each neuron of a converted network, and what it is made of."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .. import ranks
from ..ann2snn.data.inputs import Batch
from ..functional import encode
from ..neuron import SpikingNode
from ..neuron.spiking_activation import SpikingActivation
from ..parameters import along_channels
from .reference import Pair, Values

SAMPLES = 32  # at once: the values of all layers are kept
OUTPUT = "(output)"
Sums = dict[str, float]


@dataclass(frozen=True)
class _Firing:
    """
    What a neuron does with a batch, in the ANN's units.

    :param before: its input, with the neuron's shift
    :param value: what it quantises: the same, behind the activation that the neuron applies
    :param level: the level that it emits
    :param output: what the level stands for
    """

    before: Tensor
    value: Tensor
    level: Tensor
    output: Tensor


def sums_of(pair: Pair) -> dict[str, Sums]:
    """
    :param pair: a converted network and its ANN
    :return: sums over all values of all batches, by the name of a neuron's module, or :data:`OUTPUT`. They are squares
        of the errors, squares of what these are relative to, and counts
    """
    sites = {name: m for name, m in pair.snn.net.named_modules() if isinstance(m, SpikingActivation)}
    totals: dict[str, Sums] = {}
    for batch in pair.data.batches("errors by layer"):
        for part in pair.data.parts(batch, SAMPLES):
            for name, sums in _sums_of_batch(pair, sites, part):
                total = totals.setdefault(name, {})
                for key, value in sums.items():
                    total[key] = total.get(key, 0.0) + float(value)
    numbers = iter(ranks.total_of(*(value for total in totals.values() for value in total.values())))
    return {name: {key: next(numbers) for key in total} for name, total in totals.items()}


def _sums_of_batch(
    pair: Pair, sites: dict[str, SpikingActivation], batch: Batch
) -> Iterator[tuple[str, dict[str, Tensor | int]]]:
    ann = Values(pair.model, set(sites))
    expected = ann.run(*batch.clone().tensors)
    with _listening(sites) as firings:
        outputs = pair.snn.net(*batch.clone().tensors)
    # The ANN's own layers, given what the spiking neurons give.
    mixed = Values(pair.model, set(sites), {name: f.output for name, f in firings.items()})
    inherited = mixed.run(*batch.clone().tensors)
    for name, firing in firings.items():
        activation = pair.model.get_submodule(name) if name in ann.inputs else nn.Identity()
        pairs = (ann.inputs[name], mixed.inputs[name]) if name in ann.inputs else (firing.value, firing.value)
        yield name, _sums(sites[name].node, firing, activation, *pairs)
    for y, target, other in zip(outputs, expected, inherited, strict=True):
        if isinstance(y, Tensor) and y.is_floating_point():
            yield OUTPUT, _sums_of_output(y.double(), target.double(), other.double())


@contextmanager
def _listening(sites: dict[str, SpikingActivation]) -> Iterator[dict[str, _Firing]]:
    """Within it, what the neurons do is kept, by name."""
    firings: dict[str, _Firing] = {}
    inputs: dict[str, Tensor] = {}
    hooks = []

    def listen(name: str, site: SpikingActivation) -> None:
        def before(module: nn.Module, args: tuple[Any, ...]) -> None:
            inputs[name] = args[0].clone()  # the neuron may overwrite its input

        def after(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            firings[name] = _firing(site.node, inputs.pop(name), output)

        hooks.extend([site.register_forward_pre_hook(before), site.register_forward_hook(after)])

    for name, site in sites.items():
        listen(name, site)
    try:
        yield firings
    finally:
        for hook in hooks:
            hook.remove()


def _firing(node: SpikingNode, x: Tensor, output: Tensor) -> _Firing:
    level = node.level(x)
    value = in_levels(node, x) * _along(node, node.step, x)
    before = value if node.folded_input else x + _along(node, node.shift, x)
    output = output * _along(node, node.unit, output) if node.folded_output else output
    return _Firing(before, value, level, output.to(x.dtype))


def in_levels(node: SpikingNode, x: Tensor) -> Tensor:
    """
    :param node: a neuron
    :param x: its input
    :return: the value that it quantises, in units of one level
    """
    if not node.folded_input:
        return node.charge(x) / _along(node, node.step, x)
    # x counts in levels, with the shift and the initial charge in it
    psi = 0.5 if node.psi is None else node.psi / node.v_threshold
    return x - (psi if isinstance(psi, float) else _along(node, psi, x))


def _sums(
    node: SpikingNode, firing: _Firing, activation: nn.Module, z: Tensor, z_inherited: Tensor
) -> dict[str, Tensor | int]:
    value, level, output = firing.value.double(), firing.level, firing.output.double()
    target, inherited = (activation(x.clone()).double() for x in (z, z_inherited))
    step = _along(node, node.step, value)
    lowest, highest = node.min_level * step, node.code.max_level(node.T) * step
    in_range = torch.minimum(torch.maximum(value, lowest), highest)
    # what a rectifier cuts off is no error
    clipping = in_range - (value if node.signed else value.clamp_min(0))
    beyond = (value > highest + step / 2) | ((value < lowest - step / 2) & node.signed)
    return {
        "input": _energy(z.double()),
        "target": _energy(target),
        "before": _energy(firing.before.double() - z),
        "after": _energy(output - target),
        "inherited": _energy(inherited - target),
        "clipping": _energy(clipping),
        "rounding": _energy(output - in_range),
        "clipped": beyond.sum(),
        "silent": (level == 0).sum(),
        "spikes": encode(level, node.code, node.T, node.signed).count_nonzero(),
        "count": level.numel(),
        "digits": level.numel() * node.T,
    }


def _sums_of_output(y: Tensor, target: Tensor, inherited: Tensor) -> dict[str, Tensor | int]:
    usual = target.isfinite() & y.isfinite() & inherited.isfinite()  # masked logits are infinite
    y, target, inherited = y[usual], target[usual], inherited[usual]
    errors = {"after": _energy(y - target), "inherited": _energy(inherited - target)}
    return {"target": _energy(target), "input": _energy(target), "before": errors["after"], **errors}


def _along(node: SpikingNode, parameter: Tensor, x: Tensor) -> Tensor:
    return along_channels(parameter, x, node.channel_dim, type(node).__name__)


def _energy(x: Tensor) -> Tensor:
    return x.square().sum()
