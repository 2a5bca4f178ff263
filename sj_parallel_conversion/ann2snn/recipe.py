"""The steps of a conversion in order: capture, observe, place neurons, calibrate, fold."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import replace

import torch
from torch import Tensor, fx, nn

from ..analysis.closing_line import report
from ..compat import ModuleConversionRecipe
from ..errors import ConversionError
from ..neuron.spiking_activation import SpikingActivation
from . import graph
from .calibration import CALIBRATIONS, CHEAPER, SEARCH_THRESHOLDS
from .calibration.distillation import distil
from .calibration.judge import Judge
from .config import ConversionConfig
from .data.batches import CalibrationData
from .data.cache import Spool
from .data.inputs import placement
from .data.source import Batches, Source, replayable
from .folding.fold import fold
from .graph.capture import CaptureError
from .graph.shapes import record_shapes
from .network.parts import PartlySpikingNetwork, convert_submodules
from .network.spiking_network import SpikingNetwork
from .network.submodules import with_suggestions
from .placement.encoder import add_encoders, place_encoders
from .placement.sites import Site, find_sites, make_node
from .placement.thresholds import observe


class ParallelConversionRecipe(ModuleConversionRecipe):
    """
    ANN -> spiking network with neurons that see the whole time window.

    :param dataloader: calibration data; labels are not used. Batches may be ``x``, ``(x, y)``, ``(x, y, ...)``,
        ``(x,)`` or ``{"image": x}``
    :param mode: ``"parallel"``: the neuron and its code
    :param time_steps: T
    :param threshold: ``"mse"``, ``"max"`` or a percentile such as ``"99.9%"``
    :param calibration: a row of :data:`~sj_parallel_conversion.ann2snn.calibration.CALIBRATIONS`
    :param show_progress: whether progress bars are drawn
    :param options: further fields of :class:`~sj_parallel_conversion.ann2snn.config.ConversionConfig`
    :raises ConfigError: if an option is unknown or out of range
    """

    def __init__(
        self,
        dataloader: Iterable,
        mode: str = ConversionConfig.mode,
        time_steps: int = ConversionConfig.time_steps,
        threshold: str = ConversionConfig.threshold,
        calibration: str = ConversionConfig.calibration,
        show_progress: bool = ConversionConfig.show_progress,
        **options: object,
    ) -> None:
        self.dataloader = dataloader
        self.config = ConversionConfig.from_options(
            mode=mode,
            time_steps=time_steps,
            threshold=threshold,
            calibration=calibration,
            show_progress=show_progress,
            **options,
        )

    def validate(self, converter: object) -> None:
        """:raises DataError: if the dataloader is None or no iterable of batches"""
        self.dataloader = replayable(self.dataloader)

    @torch.inference_mode(False)  # its tensors could not be trained later
    @torch.no_grad()
    def convert_module(
        self, converter: object, ann: nn.Module, submodules: Sequence[str] | None = None
    ) -> SpikingNetwork | PartlySpikingNetwork:
        """
        :param converter: its ``device`` says where the network goes; ``None`` means where ``ann`` is
        :param ann: the trained network; it is left bit for bit as it was
        :param submodules: names of the submodules to convert, with wildcards, such as ``["backbone", "head.*"]``;
            ``None`` converts the whole model
        :return: the spiking network
        :raises ConversionError: if the model cannot be converted; the message names the layers, or the submodules
            that can be converted
        :raises DataError: if the calibration data are unusable
        """
        device = getattr(converter, "device", None)
        source = Source(self.dataloader, self.config.max_batches, self.config.seed)
        if submodules is not None:
            graph.check_patterns(self.config.keep, (name for name, _ in ann.named_modules(remove_duplicate=False)))
            snn = convert_submodules(ann, submodules, source, device, self._convert)
        else:
            try:
                snn = self._convert(ann, source, device)
            except CaptureError as error:
                raise with_suggestions(error, ann, source) from error
        if self.config.fold:  # a network to run; one to train keeps its neurons' parameters
            snn.requires_grad_(False)
        report(snn, self.config.show_progress)
        return snn

    def _convert(
        self,
        ann: nn.Module,
        source: Batches,
        device: torch.device | str | None,
        graded_input: bool = False,
        prefix: str = "",
    ) -> SpikingNetwork:
        plain = graph.plain_copy(ann)
        device, dtype = placement(plain, device)
        spool = Spool(self.config.max_memory, device)
        # half precision has too few digits for the sums of a calibration
        with closing(spool), torch.autocast(device.type, enabled=False):
            data = CalibrationData(source, plain, device, dtype, self.config.show_progress, spool)
            model, signature = graph.graph_of(plain, data, device, self.config.free_sizes)
            if not prefix:  # the names of a part were checked in the whole model
                graph.check_patterns(self.config.keep, graph.names_of(model, plain))
            graph.mark_kept(model, self.config.keep, prefix)
            snn, config = Choice(model, data, graded_input).of(self.config)
            snn = SpikingNetwork(snn, config, signature, graded_input).eval()
        snn.stand_for(plain)
        return snn

class Choice:
    """
    Builds the network that is asked for, and beside it what a cheaper calibration gives, if that may be better.

    :param model: the captured network, left as it is
    :param data: calibration data
    :param graded_input: whether it is a part of a network whose input comes from other layers of it
    """

    def __init__(self, model: fx.GraphModule, data: CalibrationData, graded_input: bool) -> None:
        self.model, self.data, self.graded_input = model, data, graded_input

    def of(self, config: ConversionConfig) -> tuple[fx.GraphModule, ConversionConfig]:
        """
        :param config: the options that are asked for
        :return: the network with the least error on held-out images, and the options that have led to it. There is no
            choice with the cheapest calibrations, with few images, and in a network of trained quantisers alone
        """
        draft = Draft(self.model, self.data, config, self.graded_input)
        judge = None
        if config.calibration in CHEAPER and draft.calibrated:
            judge = Judge.of(self.model, self.data, config)
        best, chosen = draft.network(self.data, judge), config
        if judge is None:
            return best, config
        errors = first = judge.errors(best)
        for calibration in CHEAPER[config.calibration]:
            cheaper = replace(config, calibration=calibration)
            found = self._better(cheaper, judge, errors)
            if found is not None:
                best, chosen, errors = found, cheaper, judge.errors(found)
        if chosen is not config:
            asked, kept = config.calibration, chosen.calibration
            warnings.warn(
                f"calibration={asked!r} does worse than {kept!r} here: on {len(errors)} held-out images the relative "
                f"squared error of the outputs is {float(first.mean()):.3g} instead of {float(errors.mean()):.3g}. So "
                f"the network is that of calibration={kept!r}. More calibration images may help",
                stacklevel=2,
            )
        return best, chosen

    def _better(self, config: ConversionConfig, judge: Judge, errors: Tensor) -> fx.GraphModule | None:
        """The network of ``config``, or ``None`` if that does not make the ``errors`` less."""
        held_out = config.calibration in CHEAPER
        network = None
        # What fits thresholds alone shows on a few images what it is good for; mostly that is the end of it.
        for data in [self.data] if held_out else [judge.few, self.data]:
            draft = Draft(self.model, data, config, self.graded_input)
            network = draft.network(data, judge if held_out else None)
            if not judge.worse(errors, than=judge.errors(network)):
                return None
        return network


class Draft:
    """
    A copy of the captured network, prepared for neurons.

    :param model: the captured network, left as it is
    :param data: calibration data, of which one batch is run
    :param config: the conversion's options
    :param graded_input: as in :class:`Choice`
    """

    def __init__(
        self, model: fx.GraphModule, data: CalibrationData, config: ConversionConfig, graded_input: bool
    ) -> None:
        self.model, self.config = copy.deepcopy(model), config
        self.sites = prepare(self.model, data, config, graded_input)
        max_level = config.node_type.code.max_level(config.time_steps)
        self.calibrated = [site.name for site in self.sites if not site.is_lossless(max_level)]
        # the graded input of a part is no input of the network
        self._encodes = config.input_encoding == "spikes" and not graded_input

    def network(self, data: CalibrationData, judge: Judge | None) -> fx.GraphModule:
        """
        :param data: calibration data
        :param judge: its images are not fitted
        :return: the spiking network
        """
        model, config = self.model, self.config
        encoders = add_encoders(model, config.per_channel) if self._encodes else []
        snn = place_neurons(model, self.sites, data, config)
        place_encoders(model, snn, encoders, data, config)
        fitted = data if judge is None else judge.fitted
        CALIBRATIONS[config.calibration](model, snn, self.sites, fitted, config)
        if config.fold and data.dtype in (torch.float32, torch.float64):
            # Trained quantisers keep their order of arithmetic, to the bit; half precision would round weights twice.
            fold(snn, self.calibrated, data.example())
        distil(model, snn, fitted, config, judge)
        return snn


def prepare(
    model: fx.GraphModule, data: CalibrationData, config: ConversionConfig, graded_input: bool = False
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
    graph.activation_sites(model)
    record_shapes(model, data.example())
    if config.membrane_shortcuts:
        with data.naming_batches():
            graph.membrane_shortcuts(model, data.first() if config.shortcut == "auto" else None)
    sites = find_sites(model, config.per_channel)
    max_level = config.node_type.code.max_level(config.time_steps)
    # Fusing changes float rounding, which would move values across the steps of a trained quantiser.
    if not any(site.is_lossless(max_level) for site in sites):
        graph.fuse_batchnorms(model)
    if not (config.spiking_inputs or config.strict):
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
    return find_sites(model, config.per_channel)


def place_neurons(
    model: fx.GraphModule, sites: list[Site], data: CalibrationData, config: ConversionConfig
) -> fx.GraphModule:
    """
    :param model: the ANN in plain form
    :param sites: its activations
    :param data: calibration data
    :param config: the conversion's options
    :return: a copy of ``model`` with a neuron at each site
    """
    max_level = config.node_type.code.max_level(config.time_steps)
    searched_later = config.threshold == "mse" and config.calibration in SEARCH_THRESHOLDS
    v_max = observe(model, sites, data, "max" if searched_later else config.threshold, max_level)
    snn = copy.deepcopy(model)
    for site in sites:
        node = make_node(site, config.node_type, config.time_steps, v_max[site.name])
        graph.replace_module(snn, site.name, SpikingActivation(node.to(v_max[site.name])))
    return snn
