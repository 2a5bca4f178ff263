"""The thresholds that trainable activations start from: those that a conversion would choose from the same data."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from inspect import signature
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..ann2snn.config import check_threshold
from ..ann2snn.data.batches import CalibrationData
from ..ann2snn.data.inputs import InputForm
from ..ann2snn.graph.side_effects import undone
from ..ann2snn.placement.sites import Site
from ..ann2snn.placement.thresholds import observe
from ..errors import ConfigError, SJPCError, as_data_error
from ..neuron.activations import DAQCFS, QCFS, ClipReLU
from ..parameters import as_integer, check_flag
from ..user_warnings import warn

Trainable = QCFS | DAQCFS | ClipReLU
_TRAINABLE = (QCFS, DAQCFS, ClipReLU)


class Placed(NamedTuple):
    """An activation that stands for a ReLU, and the value at which that ReLU cuts (6 for a ReLU6)."""

    activation: nn.Module
    upper: float


class StartOptions(NamedTuple):
    """
    How the first thresholds are chosen.

    :param threshold: ``"mse"``, ``"max"`` or a percentile such as ``"99.9%"``
    :param per_channel: one threshold a channel, or one a layer
    :param max_batches: how many batches are read; ``None``: all
    """

    threshold: str
    per_channel: bool
    max_batches: int | None

    def check(self) -> None:
        """:raises ConfigError: if an option is out of range"""
        check_threshold(self.threshold)
        check_flag("replace_activations", "per_channel", self.per_channel)
        if self.max_batches is not None and (as_integer(self.max_batches) or 0) < 1:
            raise ConfigError(f"max_batches must be None or an integer >= 1, got {self.max_batches!r}")

    def check_unused(self) -> None:
        """:raises ConfigError: if there is an option for thresholds that are not chosen from data"""
        if self.per_channel or self.threshold != "mse":
            raise ConfigError(
                "threshold and per_channel say how thresholds are chosen from data. They need a dataloader, an "
                "activation that is QCFS, DAQCFS or ClipReLU, and no v_threshold of your own"
            )


def has_no_start(activation: Callable[..., nn.Module], kwargs: dict[str, object]) -> bool:
    """Whether nobody has said where the thresholds of ``activation`` start, a class of this package."""
    args: tuple[Any, ...] = ()
    while isinstance(activation, partial):
        args, kwargs, activation = activation.args + args, activation.keywords | kwargs, activation.func
    if not isinstance(activation, type) or not issubclass(activation, _TRAINABLE):
        return False
    takes = signature(activation)
    return "v_threshold" in takes.parameters and "v_threshold" not in takes.bind_partial(*args, **kwargs).arguments


@torch.no_grad()
def start_from_data(
    model: nn.Module, placed: list[Placed], data: CalibrationData, options: StartOptions, channel_given: bool
) -> None:
    """
    Set the thresholds of the activations, in place. They are measured on a copy in which the ReLUs still are ReLUs, in
    evaluation mode. Those that only run in training mode, such as in an auxiliary head, are measured in that.

    :param model: the network with its activations
    :param placed: the activations whose thresholds are set
    :param data: batches
    :param options: how they are chosen
    :param channel_given: whether the user has said which axis holds the channels
    :raises ConfigError: if there cannot be a threshold for each channel
    :raises DataError: if activations are NaN or infinite, or a batch cannot be run
    """
    uppers = {id(activation): upper for activation, upper in placed}
    waiting = {name: module for name, module in _trainable_of(model) if id(module) in uppers}
    probe = _with_relus(model, {name: uppers[id(module)] for name, module in waiting.items()})
    for training in (False, True):
        called = _Called(probe.train(training), data.form)
        cuda = [p.device for p in probe.parameters() if p.is_cuda][:1]
        with undone(probe), torch.random.fork_rng(cuda), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about a run that nobody asked for
            try:
                shapes = _shapes(called, list(waiting), data)
            except SJPCError:
                if training:  # such as a loss that wants targets
                    break
                raise
            reached = [name for name in waiting if shapes[name]]
            if options.per_channel:
                for name in reached:
                    _check_channels(name, waiting[name].channel_dim, shapes[name], channel_given)
            found = _measured(called, {name: waiting[name] for name in reached}, data, options)
        for name, v_threshold in found.items():
            activation = waiting.pop(name)
            activation.v_threshold = nn.Parameter(v_threshold.to(activation.v_threshold))
        if not waiting:
            return
    warn(
        f"the data do not reach {', '.join(waiting)}: thresholds start there at the default of 8.0. Set them by hand, "
        "or give v_threshold=..."
    )


def _trainable_of(model: nn.Module) -> Iterator[tuple[str, Trainable]]:
    for name, module in model.named_modules():
        if isinstance(module, _TRAINABLE):
            yield name, module


class _Called:
    """Stands for a captured network: called with the tensors of a batch, with submodules by name."""

    def __init__(self, network: nn.Module, form: InputForm) -> None:
        self._network, self._form = network, form
        self.get_submodule = network.get_submodule

    def __call__(self, *tensors: Tensor) -> object:
        args, kwargs = self._form.call(tuple(x.clone() for x in tensors))  # the network may write to its input
        return self._network(*args, **kwargs)


def _with_relus(model: nn.Module, uppers: dict[str, float]) -> nn.Module:
    """A copy of ``model`` whose activations of these names cut at 0 and at these values, and round nothing."""
    probe = copy.deepcopy(model)
    for name, upper in uppers.items():
        vars(probe.get_submodule(name))["forward"] = partial(torch.clamp, min=0, max=upper)
    return probe


def _shapes(called: _Called, names: list[str], data: CalibrationData) -> dict[str, list[torch.Size]]:
    """The shapes that each activation gives on the first batch."""
    shapes: dict[str, list[torch.Size]] = {name: [] for name in names}

    def note(name: str) -> Callable[..., Any]:
        return lambda module, args, output: shapes[name].append(output.shape)

    with _hooks({called.get_submodule(name): note(name) for name in names}):
        with as_data_error(lambda: "dataloader: the network does not run on the first batch"):
            called(*data.first().tensors)
    return shapes


@contextmanager
def _hooks(functions: dict[nn.Module, Callable[..., Any]]) -> Iterator[None]:
    handles = [module.register_forward_hook(function) for module, function in functions.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _check_channels(name: str, channel_dim: int, shapes: list[torch.Size], given: bool) -> None:
    """:raises ConfigError: if the axis holds no channels, or it is not clear whether it does"""
    ranks = sorted({len(shape) for shape in shapes})
    if not given and 3 in ranks:  # [N, C, L] and [N, L, C]
        raise ConfigError(
            f"layer {name!r} gives {list(shapes[0])}, and per_channel=True cannot tell which axis holds the channels. "
            "Give channel_dim=1 for [N, C, L], channel_dim=-1 for [N, L, C], or per_channel=False"
        )
    missing = any(not -rank <= channel_dim < rank for rank in ranks)
    if missing or len({shape[channel_dim] for shape in shapes}) > 1:
        raise ConfigError(
            f"layer {name!r} gives {', '.join(str(list(shape)) for shape in shapes)}, which has no single number of "
            f"channels along channel_dim={channel_dim}. Give another channel_dim, or per_channel=False"
        )


def _measured(
    called: _Called, activations: dict[str, Trainable], data: CalibrationData, options: StartOptions
) -> dict[str, Tensor]:
    """The thresholds, by the rule of a conversion to as many levels."""
    if not activations:
        return {}
    found: dict[Any, Any] = {}
    for levels in {getattr(module, "levels", None) for module in activations.values()}:
        # a ClipReLU rounds nothing, so the least error is that of no clipping
        threshold = "max" if levels is None and options.threshold == "mse" else options.threshold
        sites = [
            Site(name, nn.ReLU(), module.channel_dim if options.per_channel else None)
            for name, module in activations.items()
            if getattr(module, "levels", None) == levels
        ]
        found |= observe(called, sites, data, threshold, levels or 1)
    return found
