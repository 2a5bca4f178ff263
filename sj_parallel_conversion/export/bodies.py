"""Small graphs on torch's own operations: what a neuron or an activation of this package computes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

from ..neuron import SpikePackNode, SpikingNode
from ..neuron.activations import DAQCFS, QCFS, ClipReLU
from ..parameters import along_channels


class Body:
    """
    A graph that is being built, from one value to one value.

    :param like: an example of that value, which says the rank and the dtype of constants
    """

    def __init__(self, like: Tensor) -> None:
        self.root, self.graph, self.like = nn.Module(), fx.Graph(), like
        self.x = self.graph.placeholder("x")

    def constant(self, name: str, value: Tensor, channel_dim: int) -> fx.Node:
        """A buffer of values ``[]`` or ``[C]``, shaped so that it broadcasts over the value."""
        shaped = along_channels(value.detach(), self.like, channel_dim, name).clone()
        self.root.register_buffer(name, shaped)
        return self.graph.get_attr(name)

    def call(self, function: Callable[..., Any], *args: object) -> fx.Node:
        """One operation."""
        return self.graph.call_function(function, args)

    def apply(self, name: str, module: nn.Module, x: fx.Node) -> fx.Node:
        """The call of a module."""
        self.root.add_module(name, module)
        return self.graph.call_module(name, (x,))

    def build(self, result: fx.Node, name: str) -> fx.GraphModule:
        """:param result: the value that is returned. :param name: of the class that is printed. :return: the module"""
        self.graph.output(result)
        return fx.GraphModule(self.root, self.graph, name)


def neuron_body(node: SpikingNode, like: Tensor, translate: Callable[[nn.Module], nn.Module]) -> fx.GraphModule:
    """
    The packed form of a neuron, operation by operation, so that the same input makes the same level.

    :param node: the neuron
    :param like: an example of its input
    :param translate: makes a module of torch of an activation
    :return: ``x -> value of its level``
    """
    half = like.dtype in (torch.float16, torch.bfloat16)
    body = Body(like.float() if half else like)
    x = body.graph.call_method("float", (body.x,)) if half else body.x
    if not node.folded_input:
        x = _charged(body, node, x, translate)
    level = _level(body, node, x)
    value = level if node.folded_output else _value(body, node, level, translate)
    return body.build(body.graph.call_method("type_as", (value, body.x)) if half else value, type(node).__name__)


def _charged(body: Body, node: SpikingNode, x: fx.Node, translate: Callable[[nn.Module], nn.Module]) -> fx.Node:
    """``(n f(x + psi_DA) + psi) / theta``."""
    if node.shift.any():
        x = body.call(torch.add, x, body.constant("shift", node.shift, node.channel_dim))
    function = node.activation if node.formula is None else node.formula
    if function is not None:
        x = body.apply("activation", translate(function).to(body.like.dtype), x)
    if node.code.levels_per_threshold(node.T) != 1:
        x = body.call(torch.mul, x, node.code.levels_per_threshold(node.T))
    theta = along_channels(node.v_threshold.detach(), body.like, node.channel_dim, "v_threshold")
    if node.psi is None or node.formula is not None:
        psi = theta / 2
    else:
        psi = along_channels(node.psi.detach(), body.like, node.channel_dim, "psi")
    for name, value in (("psi", psi), ("v_threshold", theta)):
        body.root.register_buffer(name, value.clone())
    x = body.call(torch.add, x, body.graph.get_attr("psi"))
    return body.call(torch.div, x, body.graph.get_attr("v_threshold"))


def _level(body: Body, node: SpikingNode, line: fx.Node) -> fx.Node:
    if isinstance(node, SpikePackNode) and node.tau != 2:
        return _greedy_level(body, node, line)
    largest = float(node.code.max_level(node.T))
    return body.call(torch.clamp, body.call(torch.floor, line), float(node.min_level), largest)


def _greedy_level(body: Body, node: SpikePackNode, line: fx.Node) -> fx.Node:
    """The paper's loop, for a base that has no closed form."""
    level = None
    for weight in node.code.weights(node.T):
        spike = body.graph.call_method("type_as", (body.call(torch.ge, line, weight), line))
        amount = body.call(torch.mul, spike, weight)
        line = body.call(torch.sub, line, amount)
        level = amount if level is None else body.call(torch.add, level, amount)
    return level


def _value(
    body: Body, node: SpikingNode, level: fx.Node, translate: Callable[[nn.Module], nn.Module]
) -> fx.Node:
    n = node.code.levels_per_threshold(node.T)
    worth = node.v_threshold if node.amplitude is None else node.amplitude
    unit = along_channels(worth.detach(), body.like, node.channel_dim, "amplitude") / n
    body.root.register_buffer("unit", unit)
    value = body.call(torch.mul, level, body.graph.get_attr("unit"))
    if node.formula is None:
        return value
    theta = along_channels(node.v_threshold.detach(), body.like, node.channel_dim, "v_threshold")
    psi = theta / 2 if node.psi is None else along_channels(node.psi.detach(), body.like, node.channel_dim, "psi")
    body.root.register_buffer("to_middle", (theta / 2 - psi) / n)
    middle = body.call(torch.add, value, body.graph.get_attr("to_middle"))
    return body.apply("activation_of_level", translate(node.formula).to(body.like.dtype), middle)


def activation_body(module: QCFS | DAQCFS | ClipReLU, like: Tensor) -> fx.GraphModule:
    """
    :param module: an activation that stays in the network
    :param like: an example of its input
    :return: the same on torch's operations
    """
    body = Body(like)
    theta = body.constant("v_threshold", module.v_threshold, module.channel_dim)
    if isinstance(module, ClipReLU):
        return body.build(body.call(torch.minimum, body.call(torch.relu, body.x), theta), "ClipReLU")
    psi = module.v_threshold / 2 if module.psi is None else module.psi
    x: fx.Node = body.x
    worth: Tensor = module.v_threshold
    if isinstance(module, DAQCFS):
        x = body.call(torch.add, x, body.constant("shift", module.shift, module.channel_dim))
        worth = worth + module.phi
    x = body.call(torch.mul, x, module.levels)
    x = body.call(torch.add, x, body.constant("psi", psi, module.channel_dim))
    x = body.call(torch.clamp, body.call(torch.floor, body.call(torch.div, x, theta)), 0.0, float(module.levels))
    unit = body.constant("unit", worth / module.levels, module.channel_dim)
    return body.build(body.call(torch.mul, x, unit), type(module).__name__)
