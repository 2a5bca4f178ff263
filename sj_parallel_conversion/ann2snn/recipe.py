"""The steps of a conversion in order: capture, observe, place neurons, calibrate, fold."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence

import torch
from torch import fx, nn

from ..analysis.closing_line import report
from ..compat import ModuleConversionRecipe
from ..errors import ConversionError
from ..neuron.spiking_activation import SpikingActivation
from . import graph
from .calibration import CALIBRATIONS, SEARCH_THRESHOLDS
from .calibration.distillation import distil
from .config import ConversionConfig
from .data.batches import CalibrationData, replayable
from .data.inputs import placement
from .folding.fold import fold
from .graph.capture import CaptureError
from .graph.shapes import record_shapes
from .graph.signature import Signature
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
        if submodules is not None:
            snn = convert_submodules(ann, submodules, self.dataloader, device, self._convert)
        else:
            try:
                snn = self._convert(ann, self.dataloader, device)
            except CaptureError as error:
                raise with_suggestions(error, ann, self.dataloader) from error
        report(snn, self.config.show_progress)
        return snn

    def _convert(
        self,
        ann: nn.Module,
        dataloader: Iterable,
        device: torch.device | str | None,
        graded_input: bool = False,
    ) -> SpikingNetwork:
        plain = graph.plain_copy(ann)
        device, dtype = placement(plain, device)
        data = CalibrationData(dataloader, plain, device, dtype, self.config.show_progress)
        # half precision has too few digits for the sums of a calibration
        with torch.autocast(device.type, enabled=False):
            model, signature = graph.graph_of(plain, data, device, self.config.free_sizes)
            snn = self._calibrated(model, signature, data, graded_input)
        snn.stand_for(plain)
        return snn

    def _calibrated(
        self, model: fx.GraphModule, signature: Signature, data: CalibrationData, graded_input: bool
    ) -> SpikingNetwork:
        sites = prepare(model, data, self.config, graded_input)
        encoders = add_encoders(model, self.config.per_channel) if self._encodes(graded_input) else []
        snn = place_neurons(model, sites, data, self.config)
        place_encoders(model, snn, encoders, data, self.config)
        CALIBRATIONS[self.config.calibration](model, snn, sites, data, self.config)
        if self.config.fold and data.dtype in (torch.float32, torch.float64):
            # Trained quantisers keep their order of arithmetic, to the bit; half precision would round weights twice.
            max_level = self.config.node_type.code.max_level(self.config.time_steps)
            fold(snn, [site.name for site in sites if not site.is_lossless(max_level)], data.example())
        distil(model, snn, data, self.config)
        return SpikingNetwork(snn, self.config, signature, graded_input).eval()

    def _encodes(self, graded_input: bool) -> bool:
        # the graded input of a part is no input of the network
        return self.config.input_encoding == "spikes" and not graded_input


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
    sites = find_sites(model, config.per_channel, config.output_neurons)
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
    return find_sites(model, config.per_channel, config.output_neurons)


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
    with data.naming_batches():
        threshold = "max" if searched_later else config.threshold
        v_max = observe(model, sites, data, threshold, max_level, config.filled_levels)
    snn = copy.deepcopy(model)
    for site in sites:
        node = make_node(site, config.node_type, config.time_steps, v_max[site.name])
        graph.replace_module(snn, site.name, SpikingActivation(node.to(v_max[site.name])))
    return snn
