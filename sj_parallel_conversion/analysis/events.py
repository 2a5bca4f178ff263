"""
Follows the spikes of each neuron to the layers that receive them, and counts the synapses that they reach.

There are two ways, because rounding may move a value across a threshold, and serial neurons may emit other spikes: the
counts are those of the network's execution.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.conv import _ConvNd

from ..ann2snn.graph.folded import ResidualAdd
from ..ann2snn.graph.maxpool import max_pool_steps
from ..ann2snn.graph.operations import is_affine, is_max_pool
from ..ann2snn.graph.signals import LAYER, PRODUCT, SPIKES, Signals
from ..ann2snn.network.options import STEP_BY_STEP
from ..ann2snn.network.spiking_network import SpikingNetwork
from ..ann2snn.network.time_axis import Steps, TimeAxisRunner
from ..neuron.spiking_activation import SpikingActivation


@dataclass
class Events:
    """
    What happened at one node of the graph.

    :param neurons: values for which a neuron stands
    :param spikes: non-zero symbols that they emitted
    :param received: values other than 0 that reached a layer, over all steps
    :param synops: synapses that these values reached
    """

    neurons: int = 0
    spikes: int = 0
    received: int = 0
    synops: int = 0

    def emit(self, train: Tensor) -> None:
        """Add what a neuron emits, ``[T, N, ...]``."""
        self.neurons += train[0].numel()
        self.spikes += int(train.count_nonzero())

    def receive(self, layer: nn.Module, steps: list[Tensor]) -> None:
        """Add what reaches a layer, ``[N, ...]`` at each step."""
        count = _how_often(steps)
        self.received += int(count.sum())
        self.synops += reached_synapses(layer, count)

    def meet(self, product: Callable[..., Any], trains: Sequence[Steps | _Train], arguments: object) -> None:
        """
        Add what reaches a product of two trains. A value of one at a step is added up with what has come of the other,
        as often as a value of the other would be: once for each value that they make together.
        """
        for train in trains:
            count = _how_often(train.steps)
            self.received += int(count.sum())
            self.synops += round(float(product(_map(arguments, partial(_counted, train, count))).sum()))


def _how_often(steps: list[Tensor]) -> Tensor:
    """At how many of the steps each value is not 0."""
    count = torch.zeros_like(steps[0], dtype=torch.float64)
    for x in steps:
        count += x != 0
    return count


def _counted(train: object, count: Tensor, value: object) -> object:
    if value is train:
        return count
    value = value.mean if isinstance(value, (Steps, _Train)) else value
    return torch.ones_like(value, dtype=count.dtype) if isinstance(value, Tensor) else value


def event_counter(snn: SpikingNetwork, signals: Signals) -> MeanCounter | StepCounter:
    """
    :param snn: the network
    :param signals: of its graph
    :return: what counts the events of its execution, in ``events``; run it on the inputs of the network
    """
    receivers = {n for n in signals.nodes(LAYER) if n.op == "call_module" and signals.received(n) == {SPIKES}}
    counter = StepCounter if snn.execution in STEP_BY_STEP else MeanCounter
    return counter(snn, receivers, set(signals.nodes(PRODUCT)))


@dataclass(frozen=True)
class _Train:
    """
    :param steps: a value at each step
    :param mean: what it stands for, exactly
    """

    steps: list[Tensor]
    mean: object


class StepCounter(TimeAxisRunner):
    """
    Runs a network whose layers run at each step, and looks at what they get.

    :param snn: the network
    :param layers: those that receive spikes
    :param products: of two values that are made of spikes
    """

    def __init__(self, snn: SpikingNetwork, layers: set[fx.Node], products: set[fx.Node]) -> None:
        super().__init__(snn.net, snn.time_steps, snn.execution)
        self.layers, self.products = layers, products
        self.events: dict[fx.Node, Events] = {}

    @torch.no_grad()
    def run_node(self, node: fx.Node) -> object:
        """:return: as of the runner"""
        if node in self.layers:
            train = self.fetch_args_kwargs_from_env(node)[0][0]
            if isinstance(train, Steps):
                self.events.setdefault(node, Events()).receive(self.submodules[node.target], train.steps)
        if node in self.products:
            arguments = self.fetch_args_kwargs_from_env(node)
            trains = [value for value in _leaves(arguments) if isinstance(value, Steps)]
            self.events.setdefault(node, Events()).meet(partial(self._call, node), trains, arguments)
        return super().run_node(node)

    def _fire(self, node: fx.Node, site: SpikingActivation, x: Any) -> object:
        fired = super()._fire(node, site, x)
        if not isinstance(fired, Steps):  # nothing reads its train
            train = site.node.spikes(site.node.constant(x.mean if isinstance(x, Steps) else x))
            self.events.setdefault(node, Events()).emit(train)
        return fired

    def _emitted(self, node: fx.Node, site: SpikingActivation, train: Tensor, rest: Tensor | None = None) -> Steps:
        self.events.setdefault(node, Events()).emit(train)
        return super()._emitted(node, site, train, rest)


class MeanCounter(fx.Interpreter):
    """
    Runs a converted network on real trains. Neurons get the decoded values, as in ``execution="spikes"``. What lies
    between a neuron and the layers behind it runs at each step, so that each layer sees what arrives at each step.

    :param snn: the network
    :param layers: those that receive spikes
    :param products: of two values that are made of spikes
    """

    def __init__(self, snn: SpikingNetwork, layers: set[fx.Node], products: set[fx.Node]) -> None:
        super().__init__(snn.net)
        self.extra_traceback = False
        self.layers, self.products = layers, products
        self._at_each_step = {n for n in snn.net.graph.nodes if is_affine(snn.net, n) or is_max_pool(snn.net, n)}
        self._T = snn.time_steps
        self.events: dict[fx.Node, Events] = {}

    @torch.no_grad()
    def run_node(self, node: fx.Node) -> object:
        """:return: a :class:`_Train` between a neuron and the layers behind it, otherwise the value ``[N, ...]``"""
        if node.op in ("placeholder", "get_attr"):
            return super().run_node(node)
        args, kwargs = self.fetch_args_kwargs_from_env(node)
        module = self.submodules.get(node.target) if node.op == "call_module" else None
        if isinstance(module, ResidualAdd):
            kwargs = {"overwrite": False}  # a value without a time axis serves all steps
        at_mean: tuple[tuple[Any, ...], dict[str, Any]]
        at_mean = _map((args, kwargs), lambda v: v.mean if isinstance(v, _Train) else v)
        if node.op == "output":
            return at_mean[0][0]
        if isinstance(module, SpikingActivation):
            return self._fire(node, module, at_mean[0][0])
        trains = [value for value in _leaves((args, kwargs)) if isinstance(value, _Train)]
        if node in self.products:
            self.events.setdefault(node, Events()).meet(partial(self._call, node), trains, (args, kwargs))
        if node in self.layers and trains:
            self.events.setdefault(node, Events()).receive(self.submodules[node.target], trains[0].steps)
            return self._call(node, at_mean)
        value = self._call(node, at_mean)
        if not trains or node not in self._at_each_step or node in self.layers | self.products:
            return value
        if is_max_pool(self.module, node):
            return _Train(max_pool_steps(self.module, node, *at_mean, trains[0].steps), value)
        at_steps = [_map((args, kwargs), partial(_at_step, t)) for t in range(self._T)]
        return _Train([self._call(node, arguments) for arguments in at_steps], value)

    def _fire(self, node: fx.Node, site: SpikingActivation, x: Tensor) -> _Train:
        train = site.node.spikes(site.node.constant(x))
        self.events.setdefault(node, Events()).emit(train)
        return _Train(list(site.node.amplify(train)), site.node.decode(train, x.dtype))

    def _call(self, node: fx.Node, arguments: tuple[Any, ...]) -> Any:
        return getattr(self, node.op)(node.target, *arguments)


def reached_synapses(layer: nn.Module, count: Tensor) -> int:
    """
    :param layer: a linear layer, or a convolution, transposed or not
    :param count: how often each of its inputs ``[N, ...]`` is not 0
    :return: how many weights these inputs meet. At the borders of a map there are fewer than in its middle
    """
    if isinstance(layer, nn.Linear):
        return int(count.sum()) * layer.out_features
    assert isinstance(layer, _ConvNd)
    # One output channel stands for all of its group: each input meets as many weights of every one.
    ones = copy.deepcopy(layer).to(count)
    one_channel = layer.weight.new_ones(_one_channel(layer), dtype=count.dtype)
    ones.weight, ones.bias = nn.Parameter(one_channel, requires_grad=False), None
    ones.out_channels = layer.groups
    return round(float(nn.Module.__call__(ones, count).sum())) * (layer.out_channels // layer.groups)


def _one_channel(layer: _ConvNd) -> tuple[int, ...]:
    if layer.transposed:
        return (layer.in_channels, 1, *layer.kernel_size)
    return (layer.groups, layer.in_channels // layer.groups, *layer.kernel_size)


def _at_step(t: int, value: object) -> object:
    return value.steps[t] if isinstance(value, _Train) else value


def _map(arguments: object, change: Callable[[Any], object]) -> Any:
    return fx.node.map_aggregate(arguments, change)


def _leaves(arguments: object) -> list[Any]:
    found: list[Any] = []
    _map(arguments, found.append)
    return found
