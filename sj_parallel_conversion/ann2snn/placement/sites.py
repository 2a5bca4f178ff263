"""Sites: the places of a network where a spiking neuron stands for an activation."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, fx, nn

from ...errors import ConversionError
from ...neuron import SpikingNode
from ...neuron.activations import DAQCFS, QCFS, ClipReLU, SpikingIdentity, SpikingShare
from .. import graph
from ..graph.quantisers import RecognisedQCFS
from ..graph.shapes import channel_axis


@dataclass(frozen=True)
class Site:
    """
    One activation of the ANN that a neuron will stand for.

    :param name: its module's name, the same in the ANN's graph and in the spiking one
    :param activation: the ANN's module
    :param channel_dim: the axis of its input that holds the channels, or ``None`` for one parameter a layer
    :param is_output: whether its values are outputs of the network, moved at most
    """

    name: str
    activation: nn.Module
    channel_dim: int | None
    is_output: bool = False

    def by_channel(self, x: Tensor) -> Tensor:
        """``x`` as ``[C, samples]``; C = 1 where the channels are unknown."""
        if self.channel_dim is None:
            return x.reshape(1, -1)
        return x.movedim(self.channel_dim, 0).flatten(1)

    def at(self, x: Tensor, places: Tensor) -> Tensor:
        """``by_channel(x)[:, places]``, without a copy of all of ``x``."""
        if len(places) == self.count(x):
            return self.by_channel(x)
        # with the channels last, one place of all channels is looked up at once
        x = x.unsqueeze(-1) if self.channel_dim is None else x.movedim(self.channel_dim, -1)
        return x[torch.unravel_index(places.to(x.device), x.shape[:-1])].T

    def count(self, x: Tensor) -> int:
        """How many samples ``by_channel(x)`` has."""
        return x.numel() if self.channel_dim is None else x.numel() // x.shape[self.channel_dim]

    @property
    def signed(self) -> bool:
        """Whether the activation has negative values."""
        return self.bounds[0] < 0

    @property
    def known_range(self) -> float | None:
        """
        The greatest magnitude of an output with known bounds, such as a score from 0 to 1, which its levels span
        whatever the calibration data show; likewise the shares of a softmax. ``None`` for all other activations.
        """
        reach = max(-self.bounds[0], self.bounds[1])
        return reach if (self.is_output or self.is_fixed) and math.isfinite(reach) else None

    @property
    def is_fixed(self) -> bool:
        """Whether no calibration touches the neuron."""
        return isinstance(self.activation, SpikingShare)

    @property
    def bounds(self) -> tuple[float, float]:
        """The activation's least and greatest value."""
        found = graph.bounds(self.activation)
        assert found is not None  # only what has bounds becomes a site
        return found

    def is_lossless(self, max_level: float) -> bool:
        """Whether the activation has the levels of the neuron's code, so that nothing is left to calibrate."""
        return isinstance(self.activation, (QCFS, DAQCFS)) and self.activation.levels == max_level


def find_sites(model: fx.GraphModule, per_channel: bool = True, output_neurons: bool = True) -> list[Site]:
    """
    :param model: a captured network with shapes
    :param per_channel: whether thresholds may differ between the channels of a layer
    :param output_neurons: whether there are sites whose values are outputs of the network and nothing else
    :return: the sites in the order in which they run
    :raises ConversionError: if there are none, or modules that hide activations, or an activation changes the shape, or
        thresholds are not > 0
    """
    outputs, nothing_else = graph.output_values(model)
    nodes = [n for n in graph.activation_sites(model) if output_neurons or n not in nothing_else]
    if not nodes:
        raise ConversionError(
            "nothing to convert: all activations are outputs of the network, and output_neurons=False leaves those as "
            "they are. Convert with output_neurons=True"
        )
    return [replace(_site(model, node, per_channel), is_output=node in outputs) for node in nodes]


def _site(model: fx.GraphModule, node: fx.Node, per_channel: bool) -> Site:
    activation = model.get_submodule(node.target)
    if isinstance(activation, (QCFS, DAQCFS, ClipReLU)):
        _check_trained(node.target, activation)
    shape, input_shape = node.meta.get("shape"), node.args[0].meta.get("shape")
    if shape != input_shape:
        raise ConversionError(
            f"{node.target!r} ({type(activation).__name__}) turns shape {input_shape} into {shape}: an activation "
            "works on each value alone"
        )
    if isinstance(activation, (QCFS, DAQCFS)) and activation.v_threshold.dim() == 1:
        return Site(node.target, activation, activation.channel_dim)
    has_channels = per_channel and not isinstance(activation, SpikingShare)
    return Site(node.target, activation, channel_axis(model, node) if has_channels else None)


def _check_trained(name: str, activation: QCFS | DAQCFS | ClipReLU) -> None:
    for parameter, values in activation.named_parameters():
        if not torch.isfinite(values).all():
            raise ConversionError(f"layer {name!r}: {parameter} is NaN or infinite, so its training has diverged")
    lowest = activation.v_threshold.min().item()
    if lowest <= 0:
        raise ConversionError(
            f"layer {name!r}: v_threshold must be > 0, but training has driven it to {lowest:.4g}. Start from a larger "
            "threshold or give thresholds a smaller learning rate, or clamp them after each step of the optimiser"
        )


def make_node(site: Site, node_type: type[SpikingNode], time_steps: int, v_max: Tensor) -> SpikingNode:
    """
    :param site: the activation to stand for
    :param node_type: the neuron's class
    :param time_steps: T
    :param v_max: the largest value that its spikes shall stand for, ``[]`` or ``[C]``; ignored by a QCFS, which
        brings its own threshold
    :return: the neuron
    """
    channel_dim = 1 if site.channel_dim is None else site.channel_dim
    if isinstance(site.activation, (QCFS, DAQCFS)):
        return _trained_node(site.activation, node_type, time_steps, channel_dim)
    step = v_max / node_type.code.max_level(time_steps)
    v_threshold = step * node_type.code.levels_per_threshold(time_steps)
    # The ANN's module stays its own; a rectifier is what the quantiser's clipping does anyway.
    plain = isinstance(site.activation, SpikingIdentity) or graph.is_rectifier(site.activation)
    activation = None if plain else copy.deepcopy(site.activation)
    return node_type(
        time_steps, v_threshold, channel_dim=channel_dim, signed=site.signed, activation=activation
    )


def _trained_node(
    activation: QCFS | DAQCFS, node_type: type[SpikingNode], time_steps: int, channel_dim: int
) -> SpikingNode:
    code = node_type.code
    # theta is the value of all levels together; a weighted code counts its threshold by the level.
    scale = code.levels_per_threshold(time_steps) / code.max_level(time_steps)
    with torch.no_grad():
        theta = activation.v_threshold * scale
        psi = None if activation.psi is None else activation.psi * scale
        shift = activation.shift if isinstance(activation, DAQCFS) else 0.0
        amplitude = (activation.v_threshold + activation.phi) * scale if isinstance(activation, DAQCFS) else None
        node = node_type(time_steps, theta, psi=psi, shift=shift, amplitude=amplitude, channel_dim=channel_dim)
        if isinstance(activation, RecognisedQCFS) and activation.levels == code.max_level(time_steps):
            node.formula = copy.deepcopy(activation.formula)
        return node
