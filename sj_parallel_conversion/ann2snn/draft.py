"""From a captured network to one with neurons, calibrated and folded."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx

from ..errors import ConversionError
from ..neuron.spiking_activation import SpikingActivation
from . import graph
from .calibration import CALIBRATIONS, SEARCH_THRESHOLDS
from .calibration.distillation import distil
from .calibration.judge import Judge
from .calibration.reconstruction import reconstruct
from .config import ConversionConfig
from .data.selection import Data
from .folding.fold import fold
from .graph.shapes import record_shapes
from .network.origin import Origin, described, origin_of
from .placement.encoder import add_encoders, place_encoders
from .placement.sites import Site, find_sites, make_node
from .placement.thresholds import observe

# What :func:`observe` has found: by the data, the options, and the names of the sites.
Known = dict[tuple[Any, ...], dict[str, Tensor]]


class Built(NamedTuple):
    """
    :param net: the graph with neurons
    :param origin: where its weights come from
    """

    net: fx.GraphModule
    origin: Origin


class Draft:
    """
    A copy of the captured network, prepared for neurons.

    :param model: the captured network, left as it is
    :param data: calibration data, of which one batch is run
    :param config: the conversion's options
    :param graded_input: whether it is a part of a network whose input comes from other layers of it
    """

    def __init__(
        self, model: fx.GraphModule, data: Data, config: ConversionConfig, graded_input: bool
    ) -> None:
        self.model, self.config = copy.deepcopy(model), config
        self._operations = described(model)
        self.sites = prepare(self.model, data, config, graded_input)
        max_level = config.node_type.code.max_level(config.time_steps)
        self.calibrated = [site.name for site in self.sites if not site.is_lossless(max_level)]
        # the graded input of a part is no input of the network
        self._encodes = config.input_encoding == "spikes" and not graded_input

    def network(self, data: Data, judge: Judge | None, known: Known | None = None) -> Built:
        """
        :param data: calibration data
        :param judge: its images are not fitted
        :param known: see :func:`place_neurons`
        :return: the spiking network
        """
        model, config = self.model, self.config
        encoders = add_encoders(model, config.per_channel) if self._encodes else []
        snn = place_neurons(model, self.sites, data, config, known)
        place_encoders(model, snn, encoders, data, config)
        fitted = data if judge is None else judge.fitted
        CALIBRATIONS[config.calibration](model, snn, self.sites, fitted, config)
        if config.calibration == "reconstruction" and self.calibrated:
            reconstruct(model, snn, self.sites, fitted, config, judge)
        # Trained quantisers keep their order of arithmetic, to the bit; half precision would round weights twice.
        folded = self.calibrated if config.fold and data.dtype in (torch.float32, torch.float64) else []
        origin = origin_of(model, snn, self._operations, folded, len(self.calibrated) == len(self.sites))
        if folded:
            fold(snn, folded, data.example())
        distil(model, snn, fitted, config, judge)
        if config.corrects_weights or config.distillation_epochs:
            origin.note_correction(model, snn, data.example())
        return Built(snn, origin)


def prepare(
    model: fx.GraphModule, data: Data, config: ConversionConfig, graded_input: bool = False
) -> list[Site]:
    """
    Find where neurons go, after the passes that make room for them, in place.

    :param model: the captured network
    :param data: calibration data, of which one batch is run
    :param config: the conversion's options
    :param graded_input: whether it is a part of a network whose input comes from other layers of it
    :return: the sites
    :raises ConversionError: if there is nothing to convert
    """
    if not config.gives_layers_spikes:
        graph.activation_sites(model)  # before a batch is run, it is said that there is none
    record_shapes(model, data.example())
    if config.membrane_shortcuts:
        with data.naming_batches():
            graph.membrane_shortcuts(model, data.first() if config.shortcut == "auto" else None)
    has_sites = not config.gives_layers_spikes or bool(graph.possible_sites(model))
    sites = find_sites(model, config.per_channel, config.output_neurons) if has_sites else []
    max_level = config.node_type.code.max_level(config.time_steps)
    # Fusing changes float rounding, which would move values across the steps of a trained quantiser.
    if not any(site.is_lossless(max_level) for site in sites):
        graph.fuse_batchnorms(model)
    if not config.gives_layers_spikes:
        return sites
    return give_layers_spikes(model, config, graded_input)


def give_layers_spikes(model: fx.GraphModule, config: ConversionConfig, graded_input: bool) -> list[Site]:
    """
    Change the graph so that every layer but the first receives spikes, in place.

    :param model: the ANN in plain form
    :param config: the conversion's options
    :param graded_input: whether the network's input must become spikes too
    :return: the sites, with those that have come in
    :raises ConversionError: in a strict conversion, if there are operations that stay analogue
    """
    graph.pool_after_activation(model)
    graph.give_layers_spikes(model, graded_input)
    analogue = graph.analogue_operations(model, graded_input)
    if config.strict and analogue:
        raise ConversionError(
            f"strict=True, and no neuron or synapse can stand for: {', '.join(analogue)}. Replace these operations in "
            "the model, or convert with strict=False, where they stay analogue"
        )
    return find_sites(model, config.per_channel, config.output_neurons)


def place_neurons(
    model: fx.GraphModule,
    sites: list[Site],
    data: Data,
    config: ConversionConfig,
    known: Known | None = None,
) -> fx.GraphModule:
    """
    :param model: the ANN in plain form
    :param sites: its activations
    :param data: calibration data
    :param config: the conversion's options
    :param known: observed values of networks that differ in the calibration alone; those of this one are added
    :return: a copy of ``model`` with a neuron at each site
    """
    max_level = config.node_type.code.max_level(config.time_steps)
    searched_later = config.threshold == "mse" and config.calibration in SEARCH_THRESHOLDS
    threshold = "max" if searched_later else config.threshold
    known = {} if known is None else known
    key = (id(data), threshold, searched_later, *(site.name for site in sites))
    if key not in known:
        known[key] = observe(model, sites, data, threshold, max_level, config.filled_levels, robust=searched_later)
    v_max = known[key]
    snn = copy.deepcopy(model)
    for site in sites:
        node = make_node(site, config.node_type, config.time_steps, v_max[site.name])
        graph.replace_module(snn, site.name, SpikingActivation(node.to(v_max[site.name])))
    return snn
