"""What all conversions of one ANN share: its capture, and its calibration data."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TypeVar

import torch
from torch import fx, nn

from .. import ranks
from ..analysis.closing_line import report
from ..errors import ConfigError
from . import graph
from .calibration.judge import Judge
from .choice import Choice
from .config import ConversionConfig
from .data.batches import CalibrationData
from .data.cache import Spool
from .data.inputs import Batch, placement
from .data.selection import Selection
from .data.source import Batches
from .graph.signature import Signature
from .network.model_in_parts import ModelInParts, Part
from .network.parts import PartlySpikingNetwork
from .network.spiking_network import SpikingNetwork

Network = TypeVar("Network", bound=SpikingNetwork | PartlySpikingNetwork)
# Options that the capture and the reading of the data have used.
OF_THE_PREPARATION = ("distributed", "free_sizes", "keep", "max_batches", "max_memory", "seed")


class Captured:
    """
    A captured model, or part of one, and its calibration data.

    :param ann: any module; it is left as it was
    :param source: calibration data
    :param device: where it goes; ``None``: where ``ann`` is
    :param config: the conversion's options
    :param graded_input: whether it is a part of a network whose input comes from other layers of it
    :param prefix: what stands before its names, for a part of a model
    """

    def __init__(
        self,
        ann: nn.Module,
        source: Batches,
        device: torch.device | str | None,
        config: ConversionConfig,
        graded_input: bool = False,
        prefix: str = "",
    ) -> None:
        self.plain, self.graded_input, self.prefix = graph.plain_copy(ann), graded_input, prefix
        self.device, dtype = placement(self.plain, device)
        self.spool = Spool(config.max_memory, self.device)
        self.data = CalibrationData(
            source, self.plain, self.device, dtype, config.show_progress, self.spool
        )
        self.model: fx.GraphModule
        self.signature: Signature
        with self.in_full_precision():
            self.model, self.signature = graph.graph_of(self.plain, self.data, self.device, config.free_sizes)
        if not prefix:  # the names of a part were checked in the whole model
            graph.check_patterns(config.keep, graph.names_of(self.model, self.plain))
        graph.mark_kept(self.model, config.keep, prefix)

    def in_full_precision(self) -> torch.autocast:
        """Half precision has too few digits for the sums of a calibration."""
        return torch.autocast(self.device.type, enabled=False)

    def network(self, choice: Choice, config: ConversionConfig) -> SpikingNetwork:
        """
        :param choice: of the network
        :param config: the conversion's options
        :return: the spiking network
        """
        with self.in_full_precision():
            built, config = choice.of(config)
            built.origin.prefix = self.prefix
            return SpikingNetwork(built.net, config, self.signature, self.graded_input, built.origin).eval()


class PreparedANN:
    """
    An ANN that was captured once, and can be converted many times. :meth:`ParallelConverter.prepare` makes it::

        prepared = converter.prepare(ann)
        for T in (2, 4, 8):
            snn = prepared.convert(time_steps=T)

    It is a snapshot. What happens to the ANN after it was made does not reach it: prepare the ANN again, or call
    ``load_ann`` of a network. The networks share nothing with it or with each other.

    The calibration data are read once and kept, in memory up to ``max_memory`` and in temporary files beyond it.

    :param captured: the ANN and its data
    :param config: the options of the preparation, and defaults for those of the conversions
    """

    def __init__(self, captured: Captured, config: ConversionConfig) -> None:
        self.captured, self.config = captured, config
        kept = captured.spool.keep(captured.data.batches("read calibration data"))
        self.data = Selection(captured.data, lambda description: kept)

    def configured(self, **options: object) -> ConversionConfig:
        """
        :param options: as of :meth:`convert`
        :return: these, and the others as they are in the preparation
        :raises ConfigError: if an option is unknown, out of range, or belongs to the preparation
        """
        return configured(self.config, options)

    @torch.inference_mode(False)
    @torch.no_grad()
    def convert(self, **options: object) -> SpikingNetwork:
        """
        :param options: ``mode``, ``time_steps``, ``threshold``, ``calibration`` and the other fields of
            :class:`~sj_parallel_conversion.ann2snn.config.ConversionConfig`, but
            ``distributed``, ``free_sizes``, ``keep``, ``max_batches``, ``max_memory`` and ``seed``. What is left out is
            as in the preparation
        :return: the spiking network, to the bit that of ``ParallelConverter(dataloader, **options).convert(ann)``
        :raises ConfigError: as :meth:`configured`
        :raises ConversionError: if the ANN cannot be converted with these options
        """
        config = self.configured(**options)
        return finished(lambda: self.network(config), config)

    def network(self, config: ConversionConfig) -> SpikingNetwork:
        """:param config: the conversion's options. :return: as :meth:`convert`, without a report"""
        return self._network(config, lambda: self._judge)

    @torch.inference_mode(False)
    @torch.no_grad()
    def sketch(self, **options: object) -> SpikingNetwork:
        """As :meth:`convert`, without a look at whether a cheaper calibration does better, and without a report."""
        config = self.configured(**options)
        with ranks.together(config.distributed, "conversion"):
            return self._network(config, lambda: None)

    def on(self, batches: Sequence[Batch]) -> PreparedANN:
        """:param batches: of these data. :return: the same preparation for these alone"""
        other = copy.copy(self)
        other.__dict__.pop("_judge", None)
        other.data = Selection(self.captured.data, lambda description: batches)
        return other

    @cached_property
    def _judge(self) -> Judge | None:
        """Held-out images and the ANN's outputs for them, the same for all conversions: they depend on the seed."""
        return Judge.of(self.captured.model, self.data, self.config)

    def _network(self, config: ConversionConfig, judge: Callable[[], Judge | None]) -> SpikingNetwork:
        """A network that shares nothing with others."""
        choice = Choice(self.captured.model, self.data, self.captured.graded_input, judge)
        snn = self.captured.network(choice, config)
        snn.signature = copy.deepcopy(snn.signature)
        snn.stand_for(graph.plain_copy(self.captured.plain))
        return snn


class PreparedParts:
    """
    As :class:`PreparedANN`, for a model that is converted in parts: ``converter.prepare(ann, submodules=[...])`` makes
    it. What reaches each part is kept, so that the model itself runs no more.

    :param parts: a copy of the model, and where its parts are
    :param config: the options of the preparation, and defaults for those of the conversions
    """

    def __init__(self, parts: ModelInParts, config: ConversionConfig) -> None:
        self._parts, self.config = parts, config
        memory = None if config.max_memory is None else config.max_memory / len(parts.names)
        of_one = replace(config, max_memory=memory)

        def prepared(name: str, part: Part) -> PreparedANN:
            captured = Captured(part.module, part.inputs, parts.device, of_one, part.graded_input, f"{name}.")
            return PreparedANN(captured, config)

        self.parts: dict[str, PreparedANN] = parts.each(prepared)

    @torch.inference_mode(False)
    @torch.no_grad()
    def convert(self, **options: object) -> PartlySpikingNetwork:
        """
        :param options: as of :meth:`PreparedANN.convert`
        :return: the network, to the bit that of ``ParallelConverter(dataloader, **options).convert(ann, submodules)``
        :raises ConfigError: if an option is unknown, out of range, or belongs to the preparation
        :raises ConversionError: if a part cannot be converted with these options; the message names it
        """
        config = configured(self.config, options)
        check_for_parts(config)

        def networks() -> PartlySpikingNetwork:
            return self._parts.with_networks(self._parts.each(lambda name, part: self.parts[name].network(config)))

        return finished(networks, config)


def configured(config: ConversionConfig, options: dict[str, object]) -> ConversionConfig:
    """
    :param config: of a preparation
    :param options: that change it for a conversion
    :return: the options of the conversion
    :raises ConfigError: if an option is unknown, out of range, or belongs to the preparation
    """
    used = next((name for name in OF_THE_PREPARATION if name in options), None)
    if used is not None:
        raise ConfigError(
            f"{used} is an option of the preparation: it was used when the ANN was captured and its data were "
            f"read. Prepare the ANN again: ParallelConverter(dataloader, {used}=...).prepare(ann)"
        )
    return ConversionConfig.from_options(**config.as_dict() | options)


def check_for_parts(config: ConversionConfig) -> None:
    """:raises ConfigError: if an option has no effect on a model that is converted in parts"""
    if config.frame_tau != 1:
        raise ConfigError(
            f"frame_tau={config.frame_tau} would do nothing with submodules=...: a model that is converted in parts "
            f"takes inputs [N, ...]. Leave it out, and give packed frames: sjpc.pack_frames(x_seq, {config.frame_tau})"
        )


def finished(convert: Callable[[], Network], config: ConversionConfig) -> Network:
    """
    :param convert: makes a network; all ranks make the same one
    :param config: the conversion's options
    :return: the network; a folded one is to run, and one that is not keeps neurons that can be trained
    :raises RankError: if ranks have different networks
    """
    with ranks.together(config.distributed, "conversion"):
        snn = convert()
        if config.fold:
            snn.requires_grad_(False)
        report(snn, config.show_progress and ranks.leads())
        ranks.check_same(snn.state_dict, "the conversion")
    return snn
