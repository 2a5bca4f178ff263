"""A conversion from beginning to end: capture, the network with neurons, what is said about it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import closing
from typing import Any

import torch
from torch import nn

from .. import ranks
from ..compat import ModuleConversionRecipe
from . import graph
from .choice import Choice
from .config import ConversionConfig
from .data.source import Batches, Source, replayable
from .graph.capture import CaptureError
from .network.model_in_parts import ModelInParts, Part
from .network.parts import PartlySpikingNetwork
from .network.spiking_network import SpikingNetwork
from .network.submodules import with_suggestions
from .prepared import Captured, PreparedANN, PreparedParts, check_for_parts, finished


class ParallelConversionRecipe(ModuleConversionRecipe):
    """
    ANN -> spiking network with neurons that see the whole time window.

    :param dataloader: calibration data; labels are not used. Batches may be ``x``, ``(x, y)``, ``(x, y, ...)``,
        ``(x,)`` or ``{"image": x}``
    :param mode: the neuron and its code: ``"parallel"``, ``"spikepack"`` or ``"css"``
    :param time_steps: T, the number of time-steps
    :param threshold: ``"mse"``, ``"max"`` or a percentile such as ``"99.9%"``
    :param calibration: ``"none"``, ``"da_qcfs"``, ``"least_squares"``, ``"weights"`` or ``"reconstruction"``
    :param show_progress: whether progress bars are drawn
    :param options: further fields of :class:`~sj_parallel_conversion.ann2snn.config.ConversionConfig`
    :raises ConfigError: if an option is unknown or out of range
    """

    def __init__(
        self,
        dataloader: Iterable[Any],
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
        return finished(lambda: self._converted(ann, device, submodules), self.config)

    def _converted(
        self, ann: nn.Module, device: torch.device | str | None, submodules: Sequence[str] | None
    ) -> SpikingNetwork | PartlySpikingNetwork:
        if submodules is not None:
            parts = self._in_parts(ann, submodules, device)
            return parts.with_networks(parts.each(lambda name, part: self._part(name, part, parts.device)))
        source = self._source()
        try:
            return self._convert(ann, source, device)
        except CaptureError as error:
            raise with_suggestions(error, ann, source) from error

    @torch.inference_mode(False)
    @torch.no_grad()
    def prepare(
        self, ann: nn.Module, device: torch.device | str | None, submodules: Sequence[str] | None = None
    ) -> PreparedANN | PreparedParts:
        """
        :param ann: the trained network; it is left bit for bit as it was
        :param device: where its spiking networks go; ``None`` means where ``ann`` is
        :param submodules: as of :meth:`convert_module`
        :return: what converts it with any options
        :raises ConversionError: if the model cannot be captured as a whole; the message names what can be
        :raises DataError: if the calibration data are unusable
        """
        with ranks.together(self.config.distributed, "preparation"):
            if submodules is not None:
                return PreparedParts(self._in_parts(ann, submodules, device), self.config)
            source = self._source()
            try:
                captured = Captured(ann, source, device, self.config)
            except CaptureError as error:
                raise with_suggestions(error, ann, source) from error
            return PreparedANN(captured, self.config)

    def _in_parts(self, ann: nn.Module, submodules: Sequence[str], device: torch.device | str | None) -> ModelInParts:
        check_for_parts(self.config)
        if isinstance(ann, nn.Module):  # what is no model is refused when it is copied
            graph.check_patterns(self.config.keep, (name for name, _ in ann.named_modules(remove_duplicate=False)))
        return ModelInParts(ann, submodules, self._source(), device, self.config.gives_layers_spikes)

    def _part(self, name: str, part: Part, device: torch.device) -> SpikingNetwork:
        return self._convert(part.module, part.inputs, device, part.graded_input, f"{name}.")

    def _source(self) -> Source:
        return Source(self.dataloader, self.config.max_batches, self.config.seed)

    def _convert(
        self,
        ann: nn.Module,
        source: Batches,
        device: torch.device | str | None,
        graded_input: bool = False,
        prefix: str = "",
    ) -> SpikingNetwork:
        captured = Captured(ann, source, device, self.config, graded_input, prefix)
        with closing(captured.spool):
            choice = Choice(captured.model, captured.data, graded_input)
            snn = captured.network(choice, self.config)
        snn.stand_for(captured.plain)
        return snn
