"""Every option of a conversion, its default and its check."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from difflib import get_close_matches
from numbers import Real
from typing import Any

import torch

from .. import ranks
from ..errors import ConfigError
from ..functional import frame_weights
from ..kernels import check_backend
from ..neuron import ParallelConversionNode, SpikePackNode, SpikingNode, TSANode
from ..parameters import as_integer

CALIBRATIONS = ("none", "da_qcfs", "least_squares", "weights", "reconstruction")
INPUT_ENCODINGS = ("analogue", "spikes")
SHORTCUTS = ("auto", "spikes", "membrane")

MODES: dict[str, type[SpikingNode]] = {
    "parallel": ParallelConversionNode,
    "spikepack": SpikePackNode,
    "css": TSANode,
}


def check_choice(argument: str, value: object, choices: list[str]) -> None:
    """:raises ConfigError: if ``value`` is not one of ``choices``; the message lists them"""
    if not isinstance(value, str) or value not in choices:
        raise ConfigError(f"{argument}={value!r} is unknown. Choose one of: {', '.join(map(repr, choices))}")


def check_threshold(threshold: object) -> None:
    """:raises ConfigError: if ``threshold`` is not ``"mse"``, ``"max"`` or a percentile such as ``"99.9%"``"""
    if isinstance(threshold, str) and (threshold in ("mse", "max") or percentile_of(threshold) is not None):
        return
    raise ConfigError(
        f"threshold={threshold!r} is unknown. Choose one of: 'mse', 'max', or a percentile such as '99.9%' "
        "(above 0%, at most 100%)"
    )


def percentile_of(threshold: str) -> float | None:
    """The number of a percentile such as ``"99.9%"``; ``None`` for any other word."""
    try:
        value = float(threshold.removesuffix("%"))
    except ValueError:
        return None
    return value if threshold.endswith("%") and 0 < value <= 100 else None


def _items(value: object) -> Iterable[Any]:
    return value if isinstance(value, Iterable) else (value,)


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


@dataclass(frozen=True)
class ConversionConfig:
    """
    The options of a conversion.

    :param mode: the neuron and its code: ``"parallel"``, ``"spikepack"`` or ``"css"``, the rows of :data:`MODES`
    :param time_steps: T, the number of time-steps of the spiking network
    :param threshold: how thresholds are chosen from the activations of the calibration data: ``"mse"``, ``"max"`` or a
        percentile such as ``"99.9%"``. With ``"mse"`` a network that gives maps of scores has the thresholds of
        ``"max"`` if these keep high scores better, with a warning. That needs 32 images
    :param calibration: how the conversion error is corrected: ``"none"``, ``"da_qcfs"``, ``"least_squares"`` or
        ``"weights"`` or ``"reconstruction"``, the rows of
        :data:`~sj_parallel_conversion.ann2snn.calibration.CALIBRATIONS`. From 32 images on one in eight, at most 64, is
        left out of the fits of the last three. If a cheaper calibration does better on these, the result is that one's,
        with a warning
    :param per_channel: one threshold a channel, or one a layer
    :param fold: whether the neurons' arithmetic becomes part of the weights around them, which is faster; ``False``
        keeps the weights of the ANN, and neurons whose parameters can be changed and trained
    :param show_progress: whether progress bars are drawn
    :param backend: what the neurons of the converted network run on, ``"torch"`` or ``"cupy"``; a calibration runs on
        torch, wherever its data are
    :param input_encoding: ``"analogue"``: the first layer sees the input itself, as a current that is the same at each
        step; ``"spikes"``: a neuron of the mode's code stands before it. Its thresholds span the largest inputs of the
        calibration data, by channel, and a level is a pair of trains, one for each sign (symbols -1, 0, 1)
    :param spiking_inputs: whether layers other than the first receive spikes alone, and products of two values (as in
        attention), too. Where they would receive a graded value, a neuron with signed spikes is placed
    :param max_batches: how many batches of the calibration data are read; ``None``: all. An endless dataloader needs it
    :param max_memory: GiB of values that a conversion may keep in memory, all its caches together; what is more waits
        in temporary files. ``None``: half of the memory that is free where the network is, the machine's (or what its
        container or ``ulimit`` leaves) or the GPU's, on a CPU one GiB at most; ``float("inf")``: no limit
    :param strict: ``spiking_inputs``, and an operation that stays analogue is an error
    :param distillation_epochs: how often gradient steps on the weights go through the calibration data at the end, see
        :func:`~sj_parallel_conversion.ann2snn.calibration.distillation.distil`. ``None``: 3 in a classifier with
        ``calibration="weights"`` or ``"reconstruction"`` whose outputs are more than 0.5 % off, otherwise 0
    :param shortcut: what an identity shortcut around a residual block carries. ``"spikes"``: those of the neuron before
        it. ``"membrane"``: the current that this neuron receives, and the spikes of a second neuron for its negative
        part. That has less error where the part is small (:mod:`~sj_parallel_conversion.ann2snn.graph.shortcut`).
        ``"auto"``: ``"spikes"``, but ``"membrane"`` with ``mode="parallel"`` and ``calibration="weights"`` or
        ``"reconstruction"`` where the first batch has no more than twice as much energy in the negative part as in the
        positive one
    :param free_sizes: whether other sizes than the batch's (of images, of sequences) stay free where the ANN's own code
        allows it. ``None``: yes, unless the network cuts its maps into windows, for which that takes minutes
    :param seed: of every random choice of a conversion, that of a shuffling dataloader included. With the same seed and
        the same data the network is the same to the bit on one machine; torch's global generator is left as it was
    :param keep: names of modules and operations that stay as in the ANN, with wildcards, such as ``["head.*"]``: no
        neuron stands for them, and neither a calibration nor folding changes their weights
    :param output_neurons: whether an activation that is an output of the network, such as the sigmoid of a score, is a
        spiking neuron, too. ``False``: it stays as it is, analogue, and is not rounded. It needs ``strict=False``
    :param filled_levels: share of the code's levels that thresholds are chosen for, above 0 and at most 1; those above
        are left to larger values. Fewer levels mean fewer spikes and more error
    :param frame_tau: how frames that change over time are packed: frame t of an input ``[T, N, ...]`` weighs
        ``frame_tau^(T-t)``. 1: all alike, the network sees the mean frame. 2: as the spikes of SpikePack, early frames
        most, and the network sees their order. See :func:`~sj_parallel_conversion.pack_frames`
    :param distributed: whether all processes of ``torch.distributed`` convert together, each with its own share of the
        calibration data. ``None``: if a process group is initialised. ``False``: this one converts alone
    :raises ConfigError: if an option is out of range; the message lists what is valid
    """

    mode: str = "parallel"
    time_steps: int = 8
    threshold: str = "mse"
    calibration: str = "least_squares"
    per_channel: bool = True
    fold: bool = True
    show_progress: bool = True
    backend: str = "torch"
    input_encoding: str = "analogue"
    spiking_inputs: bool = False
    strict: bool = False
    max_batches: int | None = None
    max_memory: float | None = None
    distillation_epochs: int | None = None
    shortcut: str = "auto"
    free_sizes: bool | None = None
    seed: int = 0
    keep: Sequence[str] = ()
    output_neurons: bool = True
    filled_levels: float = 1.0
    frame_tau: float = 1.0
    distributed: bool | None = None

    def __post_init__(self) -> None:
        check_choice("mode", self.mode, list(MODES))
        check_choice("calibration", self.calibration, list(CALIBRATIONS))
        check_choice("input_encoding", self.input_encoding, list(INPUT_ENCODINGS))
        check_choice("shortcut", self.shortcut, list(SHORTCUTS))
        check_threshold(self.threshold)
        check_backend("ConversionConfig", self.backend)
        if (as_integer(self.time_steps) or 0) < 1:
            raise ConfigError(f"time_steps must be an integer >= 1, got {self.time_steps!r}")
        try:
            object.__setattr__(self, "time_steps", self.node_type.code.check_steps(self.time_steps))
        except ConfigError as error:
            raise ConfigError(f"mode={self.mode!r} with time_steps={self.time_steps}: {error}") from error
        for argument in ("per_channel", "fold", "show_progress", "spiking_inputs", "strict", "output_neurons"):
            if not isinstance(getattr(self, argument), bool):
                raise ConfigError(f"{argument} must be True or False, got {getattr(self, argument)!r}")
        ranks.check(self.distributed)
        if self.free_sizes is not None and not isinstance(self.free_sizes, bool):
            raise ConfigError(f"free_sizes must be None, True or False, got {self.free_sizes!r}")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or not 0 <= self.seed < 2**63:
            raise ConfigError(f"seed must be an integer from 0 to 2**63 - 1, got {self.seed!r}")
        for argument, least in (("distillation_epochs", 0), ("max_batches", 1)):
            value = as_integer(getattr(self, argument))
            if getattr(self, argument) is not None and (value is None or value < least):
                raise ConfigError(f"{argument} must be None or an integer >= {least}, got {getattr(self, argument)!r}")
            object.__setattr__(self, argument, value)
        if isinstance(self.keep, str) or not all(isinstance(name, str) for name in _items(self.keep)):
            raise ConfigError(f'keep must be a list of names such as ["head.*"], got {self.keep!r}')
        object.__setattr__(self, "keep", tuple(self.keep))
        if self.strict and not self.output_neurons:
            raise ConfigError(
                "strict=True allows no analogue operation, and output_neurons=False leaves the activations that are "
                "outputs of the network analogue. Change one of the two"
            )
        if not (_is_number(self.filled_levels) and 0 < self.filled_levels <= 1):
            raise ConfigError(f"filled_levels must be a number above 0 and at most 1, got {self.filled_levels!r}")
        frame_weights(self.time_steps, self.frame_tau)
        if self.max_memory is not None and not (_is_number(self.max_memory) and self.max_memory >= 0):
            raise ConfigError(f"max_memory must be None or GiB >= 0, got {self.max_memory!r}")

    @classmethod
    def from_options(cls, **options: Any) -> ConversionConfig:
        """:raises ConfigError: if an option does not exist; the message lists those that do"""
        known = [field.name for field in fields(cls)]
        unknown = [name for name in options if name not in known]
        if unknown:
            near = ["time_steps"] if unknown[0] == "T" else get_close_matches(unknown[0], known)
            hint = f" Near: {', '.join(near)}." if near else ""
            raise ConfigError(f"unknown option {unknown[0]!r}.{hint} The options are: {', '.join(known)}")
        return cls(**options)

    @property
    def node_type(self) -> type[SpikingNode]:
        """The neuron of this mode."""
        return MODES[self.mode]

    @property
    def gives_layers_spikes(self) -> bool:
        """Whether neurons are placed where layers and products would receive graded values."""
        return self.spiking_inputs or self.strict

    @property
    def membrane_shortcuts(self) -> bool:
        """Whether identity shortcuts may carry currents."""
        chosen = self.corrects_weights and self.mode == "parallel"
        return self.shortcut == "membrane" or (self.shortcut == "auto" and chosen)

    @property
    def corrects_weights(self) -> bool:
        """Whether the calibration changes the weights of layers."""
        return self.calibration in ("weights", "reconstruction")

    def generator(self) -> torch.Generator:
        """Random numbers that ``seed`` decides."""
        return torch.Generator().manual_seed(self.seed)

    def as_record(self) -> dict[str, object]:
        """The options that change what the tensors of the converted network mean, for its state dict."""
        names = ("mode", "time_steps", "per_channel", "fold", "input_encoding", "frame_tau")
        return {name: getattr(self, name) for name in names} | {"spiking_inputs": self.gives_layers_spikes}

    def as_dict(self) -> dict[str, object]:
        """The options as plain data."""
        return asdict(self)
