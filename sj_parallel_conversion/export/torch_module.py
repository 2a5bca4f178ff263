"""A converted network as an ordinary module of torch, which needs nothing of this package."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, fx

from ..ann2snn.data.inputs import InputForm, placement
from ..ann2snn.network import PartlySpikingNetwork, SpikingNetwork
from ..errors import ConfigError
from ..neuron import SpikingActivation
from .size_checks import check_sizes
from .translate import Observed, Translation, without_hooks


def to_torch(snn: SpikingNetwork) -> fx.GraphModule:
    """
    The network in packed execution as a graph module of torch: rounding and clipping in the place of each neuron. It
    gives what ``snn.predict`` gives, up to the rounding of floats, and needs neither this package nor SpikingJelly.
    ``torch.save``, ``pickle``, ``torch.export.export`` and ``torch.compile`` take it.

    It is in evaluation mode and for inference: floors have no gradient. Its forward takes the tensors that the ANN's
    takes, by the same names. Other arguments are constants of the conversion and are left out. Outputs are tensors, or
    tuples, lists and dicts of them; a named tuple becomes a tuple, a dataclass or an output of ``transformers`` a dict.

    :param snn: a network that was converted whole, in any execution; it is left as it was
    :return: the module, on the device of ``snn``. Of layers that the user has registered it holds copies, so that these
        need their own code
    :raises ConfigError: if a layer or an output has no such form; the message names it
    """
    check_network(snn, "to_torch")
    translation = Translation(snn.net, observe_network(snn))
    tensors = _arguments(translation.graph, snn.signature.form)
    check_sizes(translation.graph, snn.signature.sizes, tensors)
    results = translation.run(tensors)
    return translation.module(plain_value(snn.signature.build(tuple(results))), "TorchNetwork")


def check_network(snn: object, function: str) -> None:
    """:raises ConfigError: if ``snn`` is no network that was converted whole"""
    if isinstance(snn, PartlySpikingNetwork):
        names = ", ".join(map(repr, snn.parts))
        raise ConfigError(
            f"{function}: the network was converted in parts, and what lies around them is code of the model. Export "
            f"the parts one by one, {function}(snn.parts[name], ...), with name one of {names}"
        )
    if not isinstance(snn, SpikingNetwork):
        raise ConfigError(f"{function} takes a converted network, got {type(snn).__name__}")


def observe_network(snn: SpikingNetwork) -> Observed:
    """A packed run of a network on zeros. It is not run itself, because others may listen to it or use it now."""
    return observe(snn.net, snn.signature.zeros(*placement(snn, None)).tensors)


@torch.no_grad()
def observe(net: fx.GraphModule, inputs: tuple[Tensor, ...]) -> Observed:
    """As :func:`observe_network`, of a graph with its inputs."""
    twin = without_hooks(net, shares_tensors=True)
    for module in twin.modules():
        if isinstance(module, SpikingActivation):
            module.packed = True
    observed = Observed(twin)
    observed.run(*inputs, enable_io_processing=False)
    return observed.of(net)


def _arguments(graph: fx.Graph, form: InputForm) -> list[fx.Node]:
    """Placeholders for the arguments that have tensors in them, and the tensors in these."""
    named = form.structure.unflatten(list(range(len(form.is_tensor))))
    tensors: dict[int, fx.Node] = {}
    for name, argument in named.items():
        paths = [(path, leaf) for path, leaf in _paths(argument) if form.is_tensor[leaf]]
        if paths:
            given = graph.placeholder("*inputs" if name == "*" else name)
            tensors.update((leaf, _at(graph, given, path)) for path, leaf in paths)
    return [tensors[leaf] for leaf in sorted(tensors)]


_Step = tuple[Callable[..., Any], object]  # a function and its second argument


def _paths(value: Any) -> Iterator[tuple[list[_Step], int]]:
    """Ways to the leaves of a nested value, as steps of ``getitem`` and ``getattr``."""
    if isinstance(value, int):
        yield [], value
        return
    steps: list[tuple[_Step, Any]]
    if is_dataclass(value):
        steps = [((getattr, field.name), getattr(value, field.name)) for field in fields(value)]
    else:
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        steps = [((operator.getitem, key), inner) for key, inner in pairs]
    for step, inner in steps:
        yield from (([step, *path], leaf) for path, leaf in _paths(inner))


def _at(graph: fx.Graph, value: fx.Node, path: list[_Step]) -> fx.Node:
    for function, key in path:
        value = graph.call_function(function, (value, key))
    return value


def plain_value(value: object) -> object:
    """
    :param value: what a network returns, or the like with nodes of a graph in the place of tensors
    :return: the same in tuples, lists and dicts
    :raises ConfigError: if there is something in it that these cannot hold
    """
    if isinstance(value, fx.Node) or value is None or isinstance(value, (bool, int, float, str)):
        return value
    if is_dataclass(value) and not isinstance(value, dict):
        value = {field.name: getattr(value, field.name) for field in fields(value)}
    if isinstance(value, dict):
        return {key: plain_value(inner) for key, inner in value.items()}
    if isinstance(value, (tuple, list)):
        return (tuple if isinstance(value, tuple) else list)(plain_value(inner) for inner in value)
    raise ConfigError(
        f"the network returns a {type(value).__name__} ({value!r:.60}), which is no tensor, number or text, nor a "
        "tuple, list or dict of such. Convert a model that returns its tensors alone"
    )
