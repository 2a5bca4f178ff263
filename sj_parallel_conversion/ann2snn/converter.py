"""Flags -> recipe: the converter that is the same on every SpikingJelly release."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, overload

import torch
from torch import nn

from ..errors import ConfigError
from .config import ConversionConfig
from .network.parts import PartlySpikingNetwork
from .network.spiking_network import SpikingNetwork
from .prepared import PreparedANN, PreparedParts
from .recipe import ParallelConversionRecipe


class ParallelConverter:
    """
    Converts a trained ANN into a spiking network with neurons that see the whole time window.

    :param dataloader: calibration data; labels are not used. Batches may be ``x``, ``(x, y)``, ``(x, y, ...)``,
        ``(x,)`` or ``{"image": x}``
    :param mode: the neuron and its code: ``"parallel"``, ``"spikepack"`` or ``"css"``
    :param time_steps: T, the number of time-steps
    :param threshold: ``"mse"``, ``"max"`` or a percentile such as ``"99.9%"``
    :param calibration: ``"none"``, ``"da_qcfs"``, ``"least_squares"``, ``"weights"`` or ``"reconstruction"``
    :param device: where the spiking network goes; ``None`` means where the ANN is
    :param show_progress: whether progress bars are drawn
    :param options: further fields of :class:`~sj_parallel_conversion.ann2snn.config.ConversionConfig`
    :raises ConfigError: if an option is unknown or out of range, or there is no such device
    """

    def __init__(
        self,
        dataloader: Iterable[Any],
        mode: str = ConversionConfig.mode,
        time_steps: int = ConversionConfig.time_steps,
        threshold: str = ConversionConfig.threshold,
        calibration: str = ConversionConfig.calibration,
        device: torch.device | str | None = None,
        show_progress: bool = ConversionConfig.show_progress,
        **options: object,
    ) -> None:
        check_device(device)
        self.recipe = ParallelConversionRecipe(
            dataloader, mode, time_steps, threshold, calibration, show_progress, **options
        )
        self.device = device

    def convert(
        self, ann: nn.Module, submodules: Sequence[str] | None = None
    ) -> SpikingNetwork | PartlySpikingNetwork:
        """
        :param ann: the trained network; it is left bit for bit as it was
        :param submodules: names of the submodules to convert in a copy of ``ann``, with wildcards, such as
            ``["backbone.body", "head.*"]``, where the model cannot be converted as a whole
        :return: the spiking network
        :raises ConversionError: if the model cannot be converted
        :raises DataError: if the calibration data are unusable
        """
        return run_recipe(self, ann, submodules)

    __call__ = convert

    @overload
    def prepare(self, ann: nn.Module, submodules: None = None) -> PreparedANN: ...

    @overload
    def prepare(self, ann: nn.Module, submodules: Sequence[str]) -> PreparedParts: ...

    def prepare(self, ann: nn.Module, submodules: Sequence[str] | None = None) -> PreparedANN | PreparedParts:
        """
        Capture the network and read the calibration data once, for many conversions.

        :param ann: the trained network; it is left bit for bit as it was, and changes to it come too late
        :param submodules: as in :meth:`convert`
        :return: an object whose ``convert(time_steps=..., mode=..., ...)`` gives the network that this converter would
            give with these options
        :raises ConversionError: if the model, or a submodule, cannot be captured
        :raises DataError: if the calibration data are unusable
        """
        self.recipe.validate(self)
        return self.recipe.prepare(ann, self.device, submodules)


def check_device(device: Any) -> None:
    """:raises ConfigError: if ``device`` is neither ``None`` nor a device of this machine"""
    try:
        usable = not torch.empty(0, device=device).is_meta
    except (RuntimeError, TypeError, AssertionError) as error:
        raise ConfigError(f"device={device!r} cannot be used: {error}") from error
    if not usable:
        raise ConfigError(f"device={device!r} cannot be used: it holds no values")


def run_recipe(
    converter: Any, ann: nn.Module, submodules: Sequence[str] | None = None
) -> SpikingNetwork | PartlySpikingNetwork:
    """
    :param converter: anything that has a :class:`ParallelConversionRecipe` as ``recipe``, and a ``device``
    :param ann: the trained network
    :param submodules: as in :meth:`ParallelConverter.convert`
    :return: the spiking network
    :raises ConfigError: if there is no such device
    """
    check_device(converter.device)
    converter.recipe.validate(converter)
    return converter.recipe.convert_module(converter, ann, submodules)
