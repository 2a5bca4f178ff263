"""The cheapest number of time-steps, and mode, that keeps what the ANN can do."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn

from .. import ranks
from ..ann2snn.config import MODES, ConversionConfig, check_choice
from ..ann2snn.converter import ParallelConverter
from ..ann2snn.data.source import Source
from ..errors import ConfigError
from .held_out_images import split
from .result import Suggestion
from .search import Search, levels

_LEVELS = (3, 7, 15, 31, 63)  # that are tried unless time_steps are given


@torch.inference_mode(False)
@torch.no_grad()
def suggest_time_steps(
    ann: nn.Module,
    dataloader: Iterable[Any],
    tolerance: float = 0.01,
    cost: str = "spikes",
    modes: Sequence[str] = tuple(MODES),
    time_steps: Sequence[int] | None = None,
    device: torch.device | str | None = None,
    show_progress: bool = True,
    **options: Any,
) -> Suggestion:
    """
    Find the cheapest mode and T of a classifier whose loss is within a tolerance. One image in four is held out of all
    calibrations and says what the loss is. If the loader gives the right classes as well, it is the accuracy that is
    lost, ``ANN - SNN``. Otherwise it is the share of images for which the network gives another class than the ANN.

    The ANN is captured once. Settings are tried from few levels to many, on a sixth of the images, until each mode
    is within the tolerance. Modes with as many levels share one calibration: ``"spikepack"`` with T = 4 has the 15
    levels of ``"parallel"`` with T = 15. The cheapest is then calibrated on all images that are not held out, and has
    to be within the tolerance again; otherwise the next one is tried.

    With several processes of ``torch.distributed`` each works for itself, on its own data.

    Images that the ANN was trained on give too high a loss, because the ANN knows them by heart. Take others if there
    are.

    :param ann: the trained classifier; it is left bit for bit as it was
    :param dataloader: calibration data, as a conversion takes them, with or without targets ``(x, y)``; they are read
        once and kept in memory
    :param tolerance: the largest loss, 0 to 1
    :param cost: what is to be least: ``"spikes"`` of a sample, or ``"time"``, the number of time-steps
    :param modes: the modes to try
    :param time_steps: the T to try in each mode; ``None``: those with 3, 7, 15, 31 and 63 levels
    :param device: where the network goes; ``None`` means where ``ann`` is
    :param show_progress: whether a progress bar is drawn
    :param options: further fields of :class:`~sj_parallel_conversion.ann2snn.config.ConversionConfig`
    :return: the choice, its network, and all that was tried
    :raises ConfigError: if an argument cannot be used
    :raises DataError: if there are fewer than 8 held-out images, or the outputs are no classes
    :raises ConversionError: if the ANN cannot be captured as a whole, or no setting is within the tolerance; the
        message shows the curve
    """
    _check(tolerance, cost, modes, options)
    settings = _settings(modes, time_steps)
    converter = ParallelConverter(dataloader, device=device, show_progress=False, **options)
    converter.recipe.validate(converter)
    config = converter.recipe.config
    with ranks.alone():  # each process for itself, with its own data
        raw = list(Source(converter.recipe.dataloader, config.max_batches, config.seed))
        prepared = ParallelConverter(raw, device=device, show_progress=False, **options).prepare(ann)
        fitted, held_out = split(prepared, raw)
        search = Search(prepared.on(fitted), fitted, held_out, tolerance, cost, show_progress)
        return search.run(settings)


def _check(tolerance: object, cost: object, modes: Sequence[str], options: dict[str, object]) -> None:
    if isinstance(tolerance, bool) or not isinstance(tolerance, (int, float)) or not 0 <= tolerance < 1:
        raise ConfigError(f"tolerance must be a number from 0 to 1, such as 0.01 for one percent, got {tolerance!r}")
    check_choice("cost", cost, ["spikes", "time"])
    if isinstance(modes, str) or not modes:
        raise ConfigError(f'modes must be a list such as ["parallel", "css"], got {modes!r}')
    for mode in modes:
        check_choice("modes", mode, list(MODES))
    if "mode" in options:
        raise ConfigError(f"mode={options['mode']!r} is one of the choices here: give modes=[{options['mode']!r}]")
    if "submodules" in options:
        raise ConfigError(
            "submodules: suggest_time_steps tries networks that are captured as a whole. Prepare the model in parts, "
            "prepared = converter.prepare(ann, submodules=...), convert it with prepared.convert(time_steps=T), and "
            "compare the networks with evaluate"
        )


def _settings(modes: Sequence[str], time_steps: Sequence[int] | None) -> list[tuple[str, int]]:
    """Modes and T from few levels to many."""
    if time_steps is not None and (isinstance(time_steps, (str, int)) or not list(time_steps)):
        raise ConfigError(f"time_steps must be a list such as [4, 8, 16], or None, got {time_steps!r}")
    found = set()
    for mode in modes:
        usual = [T for T in range(1, max(_LEVELS) + 1) if levels(mode, T) in _LEVELS]
        every = usual if time_steps is None else time_steps
        found |= {(mode, ConversionConfig(mode=mode, time_steps=T).time_steps) for T in every}
    return sorted(found, key=lambda setting: (levels(*setting), setting[1], setting[0]))
