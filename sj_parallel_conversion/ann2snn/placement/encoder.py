"""The network's input as spikes: a neuron of the mode's code in front of the first layer."""

from __future__ import annotations

import torch
from torch import Tensor, fx

from ...errors import ConfigError
from ...neuron.activations import SpikingIdentity
from ...neuron.spiking_activation import SpikingActivation
from ..config import ConversionConfig
from ..data.batches import CalibrationData
from ..graph.passes import free_name, replace_module
from ..graph.shapes import input_axis
from .sites import Site, make_node


def add_encoder(model: fx.GraphModule, per_channel: bool) -> Site:
    """
    Put an identity after the network's input, in place.

    :param model: a standardised graph with recorded shapes
    :param per_channel: whether the channels of the input may have different thresholds
    :return: the place of the neuron
    """
    source = next(node for node in model.graph.nodes if node.op == "placeholder")
    name = free_name(model, "input_encoder")
    model.add_submodule(name, SpikingIdentity())
    axis = input_axis(model, source) if per_channel else None
    with model.graph.inserting_after(source):
        encoder = model.graph.call_module(name, (source,))
    source.replace_all_uses_with(encoder, delete_user_cb=lambda user: user is not encoder)
    encoder.meta = dict(source.meta)
    model.recompile()
    return Site(name, model.get_submodule(name), axis)


def place_encoder(snn: fx.GraphModule, site: Site, data: CalibrationData, config: ConversionConfig) -> None:
    """
    Replace the identity of ``site`` by a neuron whose levels span the largest inputs of the calibration data, of either
    sign. No calibration touches it: what it rounds off is part of the input that the layers after it are calibrated on.

    :param snn: the network with neurons
    :param site: of :func:`add_encoder`
    :param data: calibration data, read once
    :param config: the conversion's options
    :raises ConfigError: if the inputs are integers, which may be indices
    """
    sizes: list[Tensor] = []
    for x in data.batches("range of the input"):
        if not x.is_floating_point():
            raise ConfigError(f"input_encoding='spikes' needs floating-point inputs, got {x.dtype}")
        sizes.append(site.by_channel(x.abs()).amax(1))
    v_max = torch.stack(sizes).amax(0)
    v_max = torch.where(v_max > 0, v_max, 1.0)  # a channel that is always 0 stays 0 whatever its threshold
    v_max = v_max if site.channel_dim is not None else v_max[0]
    node = make_node(site, config.node_type, config.time_steps, v_max)
    replace_module(snn, site.name, SpikingActivation(node.to(v_max)))
