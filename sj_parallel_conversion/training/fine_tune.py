"""Gradient steps on a converted network, towards the ANN's outputs or by a loss of the user's."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from .. import ranks
from ..analysis.answers import Network, check_converted
from ..ann2snn.calibration.descent import Descent
from ..ann2snn.calibration.patches import LAYERS
from ..ann2snn.graph import is_kept
from ..ann2snn.network import PartlySpikingNetwork, SpikingNetwork
from ..atomic_file import as_path
from ..errors import ConfigError, as_data_error
from ..parameters import as_integer
from ..user_warnings import warn
from .distance import Loss, measure_of
from .tuning_checkpoint import TuningCheckpoint
from .tuning_data import TuningData

_LAYERS = (*LAYERS, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_RATE, _RATE_OF_A_LOSS = 0.012, 0.003
_SMALLEST = 0.01  # of a threshold's first value: it stays positive


@dataclass(frozen=True)
class FineTuning:
    """
    What :func:`fine_tune` did. ``print`` shows it.

    :param losses: on the held-out samples, before the first epoch and after each
    :param best: after how many epochs the network was as it is now
    """

    losses: list[float]
    best: int

    def __str__(self) -> str:
        lines = [f"{'epoch':>5}  held-out loss"]
        lines += [f"{i:>5}  {loss:.4g}{'  kept' if i == self.best else ''}" for i, loss in enumerate(self.losses)]
        return "\n".join(lines)


def fine_tune(
    snn: SpikingNetwork | PartlySpikingNetwork,
    ann: nn.Module | None,
    dataloader: Iterable[Any],
    epochs: int = 10,
    loss: Callable[[object, object], Tensor] | None = None,
    learning_rate: float | None = None,
    held_out: Iterable[Any] | None = None,
    patience: int | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    seed: int = 0,
    show_progress: bool = True,
    distributed: bool | None = None,
) -> FineTuning:
    r"""
    Train a converted network. Without ``loss`` its outputs are drawn nearer to the ANN's, which needs no labels.

    The network runs packed: levels pass between the neurons, so a step takes the same time and memory for every T. The
    gradient of the rounding is taken to be 1 (straight-through). Steps are Adam's, relative to the size of each
    parameter, and shrink to 0 along half a cosine. Held-out samples are checked after each epoch, and the network ends
    with the parameters that did best there, which may be those that it began with.

    Trained are the parameters that ask for a gradient. If none does, the weights of convolutions and linear layers are.

    :param snn: changed in place. Its training flags, execution and gradient flags stay. ``load_ann`` is not possible
        afterwards
    :param ann: what the outputs come nearer to; it is not changed. ``None`` with a ``loss`` that needs none
    :param dataloader: batches as for a conversion, read once an epoch. It may shuffle and augment
    :param epochs: how often
    :param loss: ``loss(output, target)``, a number that is made less. ``output`` is what the network returns,
        ``target`` what the loader gives beside the input. ``None``: the squared distance from the ANN's outputs,
        relative to their variance
    :param learning_rate: of the first step, relative to each parameter's root mean square. ``None``: 0.012 times the
        root of the distance from the ANN that there is to make less; 0.003 with a ``loss``
    :param held_out: a loader of samples to check with; ``None``: one in eight of ``dataloader``'s, at most 512, which
        are not trained on. Give one if ``dataloader`` changes its samples at random
    :param patience: stop after so many epochs without a better check; ``None``: do all epochs
    :param checkpoint: a file, written after each epoch. If it exists, training goes on from there, with the result that
        it would have had without a break, if the loader shuffles by torch's global generator
    :param seed: of the choice of held-out samples
    :param show_progress: whether progress bars are drawn
    :param distributed: whether all processes of ``torch.distributed`` train together. A step then takes a batch of each
        of them, and its gradient is the mean over all samples. ``None``: if a process group is initialised
    :return: the losses, and which epoch was kept
    :raises ConfigError: if an argument cannot be used, or the loss becomes NaN
    :raises DataError: if a batch cannot be run, or there are too few samples
    :raises FileError: if ``checkpoint`` is of another run
    """
    _check(snn, ann, loss, epochs, learning_rate, patience)
    checkpoint = None if checkpoint is None else as_path("checkpoint", checkpoint)
    network, reference = Network(snn), None if ann is None else Network(ann)
    together = ranks.together(distributed, "fine_tune")
    with together, _packed(snn), network.evaluating(), _evaluating(reference):
        data = TuningData(network, dataloader, held_out, seed, show_progress)
        measure = measure_of(loss, reference, data.held)
        settings: dict[str, object] = {"epochs": epochs, "learning_rate": learning_rate, "seed": seed}
        with _trained(snn) as names:
            tuner = _Tuner(snn, network, measure, data, names)
            settings["parameters"] = {name: list(p.shape) for name, p in names.items()}
            state = TuningCheckpoint(checkpoint, settings)
            rate = _RATE_OF_A_LOSS if learning_rate is None and loss is not None else learning_rate
            result = tuner.run(epochs, patience, rate, state, show_progress and ranks.leads())
            ranks.check_same(snn.state_dict, "fine_tune")
    if result.best == 0 and result.losses[0] != 0:
        warn(
            "fine_tune has not made the network better on held-out samples, so it is as it was. Try a smaller "
            "learning_rate, more data or more epochs"
        )
    return result


class _Tuner:
    """One run: epochs, checks after them, and the best parameters."""

    def __init__(
        self,
        snn: SpikingNetwork | PartlySpikingNetwork,
        network: Network,
        loss: Loss,
        data: TuningData,
        trained: dict[str, nn.Parameter],
    ) -> None:
        self.snn, self.network, self.loss, self.data, self.trained = snn, network, loss, data, trained
        self.descent = Descent(list(trained.values()))
        thresholds = {id(site.node.v_threshold): site.node.v_threshold for site in snn.neurons()}
        self.least = [(p, p.detach() * _SMALLEST) for p in trained.values() if id(p) in thresholds]
        self.losses: list[float] = []
        self.best, self.kept = self._values(), 0

    def run(
        self, epochs: int, patience: int | None, rate: float | None, checkpoint: TuningCheckpoint, progress: bool
    ) -> FineTuning:
        """:return: what it did; the parameters are the best then, also after an error or Ctrl-C"""
        state = checkpoint.read()
        try:
            if state is None:
                self.losses = [self._check()]
                self._refuse_nan(self.losses[0])
            else:
                self._load(state)
            self.descent.rate = _RATE * self.losses[0] ** 0.5 if rate is None else rate
            for epoch in range(len(self.losses) - 1, epochs):
                if patience is not None and epoch - self.kept >= patience:
                    break
                self._epoch(epoch, epochs, progress)
                self.losses.append(self._check())
                if self.losses[-1] < self.losses[self.kept]:
                    self.best, self.kept = self._values(), epoch + 1
                checkpoint.write(self._state())
        finally:
            self._set(self.best)
            for part in _parts(self.snn) if self.kept else ():
                part.origin = None  # what training has done to the weights is not known to it
        return FineTuning(self.losses, self.kept)

    def _epoch(self, epoch: int, epochs: int, progress: bool) -> None:
        bar = tqdm(ranks.in_step(self.data.epoch()), desc=f"fine-tune {epoch + 1}/{epochs}", total=self.data.batches,
                   disable=not progress, leave=False)  # fmt: skip
        with torch.enable_grad():
            for step, sample in enumerate(bar):
                done = min((epoch + step / self.data.batches) / epochs, 1.0)
                with as_data_error(partial("dataloader: the network cannot be trained on batch {}".format, step)):
                    value = None if sample is None else self.loss(sample, self.network.answer(sample.call))
                    if value is not None:
                        self._refuse_nan(float(value.detach()))
                    images = 0 if sample is None else sample.size
                    self.descent.step(value, (1 + math.cos(math.pi * done)) / 2, images=images)
                with torch.no_grad():
                    for p, least in self.least:
                        p.clamp_(min=least)

    @torch.no_grad()
    def _check(self) -> float:
        with as_data_error(lambda: "the network cannot be run on the held-out samples"):
            total = sum(float(self.loss(s, self.network.answer(s.call))) * s.size for s in self.data.held)
        total, count = ranks.total_of(total, sum(s.size for s in self.data.held))
        return total / count

    def _refuse_nan(self, value: float) -> None:
        if not math.isfinite(value):
            raise ConfigError(
                f"the loss is {value}, so the network is what it was at its best before. Try a smaller learning_rate, "
                "and look for NaN and infinite values in the data"
            )

    def _values(self) -> dict[str, Tensor]:
        return {name: p.detach().clone() for name, p in self.trained.items()}

    @torch.no_grad()
    def _set(self, values: dict[str, Tensor]) -> None:
        for name, p in self.trained.items():
            p.copy_(values[name])  # not p.data, whose changes prepacked kernels do not notice

    def _state(self) -> dict[str, object]:
        return {
            "descent": self.descent.state_dict(),
            "parameters": self._values(),
            "best": self.best,
            "losses": self.losses,
            "kept": self.kept,
        }

    def _load(self, state: dict[str, Any]) -> None:
        self._set(state["parameters"])
        self.descent.load_state_dict(state["descent"])
        self.losses, self.kept = list(state["losses"]), state["kept"]
        self.best = {name: state["best"][name].to(p.device) for name, p in self.trained.items()}


def _check(snn: nn.Module, ann: object, loss: object, epochs: object, learning_rate: object, patience: object) -> None:
    check_converted("fine_tune", snn)
    if any(p.dtype in (torch.float16, torch.bfloat16) for p in snn.parameters()):
        raise ConfigError("fine_tune needs float32 or float64: half precision cannot tell small steps apart. Call "
                          "snn.float() first, and .half() or .bfloat16() afterwards")  # fmt: skip
    if loss is None and not isinstance(ann, nn.Module):
        raise ConfigError("fine_tune needs the ANN, or loss=, a function of the output and the target")
    if loss is not None and not callable(loss):
        raise ConfigError(f"loss must be a function (output, target) -> number, got {loss!r}")
    if (as_integer(epochs) or 0) < 1:
        raise ConfigError(f"epochs must be an integer >= 1, got {epochs!r}")
    if patience is not None and (as_integer(patience) or 0) < 1:
        raise ConfigError(f"patience must be an integer >= 1 or None, got {patience!r}")
    if learning_rate is None:
        return
    if isinstance(learning_rate, bool) or not isinstance(learning_rate, (int, float)) or not 0 < learning_rate < 1:
        raise ConfigError(
            f"learning_rate must be between 0 and 1, as it is relative to the weights, got {learning_rate!r}"
        )


@contextmanager
def _evaluating(network: Network | None) -> Iterator[None]:
    if network is None:
        yield
        return
    with network.evaluating():
        yield


@contextmanager
def _packed(snn: SpikingNetwork | PartlySpikingNetwork) -> Iterator[None]:
    """Within it the network runs packed; afterwards as it ran, in a new window."""
    parts = _parts(snn)
    before = [part.execution for part in parts]
    try:
        for part in parts:
            part.execution = "packed"
        yield
    finally:
        for part, execution in zip(parts, before, strict=True):
            part.execution = execution
            part.reset()


def _weights(snn: SpikingNetwork | PartlySpikingNetwork) -> Iterator[nn.Parameter]:
    """Of the layers, but those that a conversion was told to keep, and in a model with parts those around them."""
    for net in (part.net for part in _parts(snn)):
        for node in net.graph.nodes:
            module = net.get_submodule(node.target) if node.op == "call_module" and not is_kept(node) else None
            if isinstance(module, _LAYERS) and isinstance(module.weight, nn.Parameter):
                yield module.weight


def _parts(snn: SpikingNetwork | PartlySpikingNetwork) -> list[SpikingNetwork]:
    return [snn] if isinstance(snn, SpikingNetwork) else list(snn.parts.values())


@contextmanager
def _trained(snn: SpikingNetwork | PartlySpikingNetwork) -> Iterator[dict[str, nn.Parameter]]:
    """The parameters that are trained, by name. Within it these alone ask for a gradient."""
    flags = [(p, p.requires_grad) for p in snn.parameters()]
    try:
        if not any(flag for _, flag in flags):
            for weight in _weights(snn):
                weight.requires_grad_()
        names = {name: p for name, p in snn.named_parameters() if p.requires_grad}
        if not names:
            raise ConfigError(
                "the network has no convolution or linear layer to train. After snn.requires_grad_() fine_tune trains "
                "all parameters that have an effect"
            )
        yield names
    finally:
        for p, flag in flags:
            p.requires_grad_(flag)
            p.grad = None
