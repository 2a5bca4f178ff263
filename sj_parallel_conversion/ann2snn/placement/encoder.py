"""The network's input as spikes: a neuron of the mode's code in front of the first layers."""

from __future__ import annotations

import torch
from torch import Tensor, fx

from ... import ranks
from ...errors import ConfigError
from ...neuron.activations import SpikingIdentity
from ...neuron.spiking_activation import SpikingActivation
from ..config import ConversionConfig
from ..data.selection import Data
from ..graph.passes import free_name, replace_module
from ..graph.shapes import input_axis
from .sites import Site, make_node


def add_encoders(model: fx.GraphModule, per_channel: bool) -> list[Site]:
    """
    Put an identity after each input of the network, in place.

    :param model: a captured network with shapes
    :param per_channel: whether the channels of the input may have different thresholds
    :return: the places of the neurons
    :raises ConfigError: if an input is of integers, which may be indices
    """
    sites = []
    for source in [node for node in model.graph.nodes if node.op == "placeholder" and node.users]:
        if not source.meta["is_floating_point"]:
            raise ConfigError(f"input_encoding='spikes' needs floating-point inputs: {source.name!r} is of integers")
        name = free_name(model, "input_encoder")
        model.add_submodule(name, SpikingIdentity())
        axis = input_axis(model, source) if per_channel else None
        with model.graph.inserting_after(source):
            encoder = model.graph.call_module(name, (source,))
        source.replace_all_uses_with(encoder, delete_user_cb=lambda user, own=encoder: user is not own)
        encoder.meta = dict(source.meta)
        sites.append(Site(name, model.get_submodule(name), axis))
    model.recompile()
    return sites


def place_encoders(
    model: fx.GraphModule, snn: fx.GraphModule, sites: list[Site], data: Data, config: ConversionConfig
) -> None:
    """
    Replace the identities of ``sites`` by neurons whose levels span the largest inputs of the calibration data, of
    either sign. No calibration touches them: what they round off is part of the input that the layers after them are
    calibrated on.

    :param model: the ANN, with identities
    :param snn: the network with neurons
    :param sites: of :func:`add_encoders`
    :param data: calibration data, read once
    :param config: the conversion's options
    """
    if not sites:
        return
    inputs = [node for node in model.graph.nodes if node.op == "placeholder"]
    numbers = {user.target: i for i, node in enumerate(inputs) for user in node.users}
    sizes: dict[str, list[Tensor]] = {site.name: [] for site in sites}
    for batch in data.batches("range of the input"):
        for site in sites:
            sizes[site.name].append(site.by_channel(batch.tensors[numbers[site.name]].abs()).amax(1))
    for site in sites:
        v_max = ranks.largest(torch.stack(sizes[site.name]).amax(0))
        v_max = torch.where(v_max > 0, v_max, 1.0)  # a channel that is always 0 stays 0 whatever its threshold
        v_max = v_max if site.channel_dim is not None else v_max[0]
        node = make_node(site, config.node_type, config.time_steps, v_max)
        replace_module(snn, site.name, SpikingActivation(node.to(v_max)))
