"""A conversion from beginning to end: capture, the network with neurons, what is said about it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import closing

import torch
from torch import nn

from ..analysis.closing_line import report
from ..compat import ModuleConversionRecipe
from . import graph
from .choice import Choice
from .config import ConversionConfig
from .data.batches import CalibrationData
from .data.cache import Spool
from .data.inputs import placement
from .data.source import Batches, Source, replayable
from .graph.capture import CaptureError
from .network.parts import PartlySpikingNetwork, convert_submodules
from .network.spiking_network import SpikingNetwork
from .network.submodules import with_suggestions


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
            if isinstance(ann, nn.Module):  # what is no model is refused when it is copied
                names = (name for name, _ in ann.named_modules(remove_duplicate=False))
                graph.check_patterns(self.config.keep, names)
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
            built, config = Choice(model, data, graded_input).of(self.config)
            built.origin.prefix = prefix
            snn = SpikingNetwork(built.net, config, signature, graded_input, built.origin).eval()
        snn.stand_for(plain)
        return snn
