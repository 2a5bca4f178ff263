"""How well a network does on the data of a loader, and how fast."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from tqdm import tqdm

from .. import ranks
from ..ann2snn.data.source import checked
from ..errors import ConfigError, DataError, as_data_error
from ..user_warnings import warn
from .answers import Network, main_tensor, synchronise, targets_of
from .macs import samples_in


@dataclass(frozen=True)
class Evaluation:
    """
    What :func:`evaluate` found. ``print`` shows it.

    :param images: the number of samples
    :param accuracy: share of targets met by the class with the largest logit, 0 to 1; ``None`` without such targets,
        and where outputs are no scores of classes, as those of detectors
    :param agreement: share of classes that are those of the ANN, 0 to 1; ``None`` without ``ann``, or
        without scores
    :param images_per_second: samples over the time of all calls but the first, which warms up; the sum over all
        processes
    :param metrics: what the metrics that were given have computed, by name
    """

    images: int
    accuracy: float | None
    agreement: float | None
    images_per_second: float
    metrics: dict[str, object] = field(default_factory=dict)

    def __str__(self) -> str:
        parts = [f"{self.images:,} samples"]
        if self.accuracy is not None:
            parts.append(f"accuracy {self.accuracy:.2%}")
        if self.agreement is not None:
            parts.append(f"agreement with the ANN {self.agreement:.2%}")
        parts += [f"{name} {_in_words(value)}" for name, value in self.metrics.items()]
        return ", ".join([*parts, f"{self.images_per_second:,.0f} samples/s"])


def _in_words(value: object) -> str:
    number = value.item() if isinstance(value, Tensor) and value.numel() == 1 else value
    return f"{number:.4g}" if isinstance(number, (int, float)) else str(number)


@torch.no_grad()
def evaluate(
    network: nn.Module,
    dataloader: Iterable[Any],
    ann: nn.Module | None = None,
    metrics: object = None,
    time_steps: int | None = None,
    show_progress: bool = True,
    distributed: bool | None = None,
) -> Evaluation:
    """
    Run a network over a loader. Works on converted networks, on ANNs and on networks of SpikingJelly, so that a
    comparison is three calls. The network stays as it was, its training flags included.

    :param network: it runs where it is, and batches are brought there
    :param dataloader: batches as a conversion takes them: ``(x, y)``, ``{"image": x, "label": y}``, or the arguments of
        ``forward`` by name and ``labels``
    :param ann: the network to agree with
    :param metrics: a metric, or a dict of metrics by name. A metric has ``update(output, target)`` and ``compute()``,
        as those of torchmetrics; or it is a function ``(output, target) -> number``, whose mean over the samples is
        taken. ``output`` is what the network returns
    :param time_steps: T, for networks of SpikingJelly
    :param show_progress: whether a progress bar is drawn
    :param distributed: whether all processes of ``torch.distributed`` do this together, each with its share of the
        data, and get the result for all of them. ``None``: if a process group is initialised
    :return: accuracy, agreement, speed and metrics. A metric that is an object has to speak with the other processes
        itself, as those of torchmetrics do
    :raises ConfigError: if an argument cannot be used
    :raises DataError: if a batch cannot be run, or the outputs of ``ann`` have another shape
    """
    runner, reference = Network(network, time_steps), None if ann is None else Network(ann)
    scores = _Scores(_as_metrics(metrics))
    with ranks.together(distributed, "evaluate"), runner.evaluating():
        if reference is None:
            _run(runner, None, dataloader, scores, show_progress)
        else:
            with reference.evaluating():
                _run(runner, reference, dataloader, scores, show_progress)
        return scores.result()


def _run(
    runner: Network, reference: Network | None, dataloader: Iterable[Any], scores: _Scores, show_progress: bool
) -> None:
    source, hidden = checked(dataloader), not (show_progress and ranks.leads())
    for index, batch in enumerate(tqdm(source, desc="evaluate", disable=hidden, leave=False)):
        call = runner.call_of(batch, index)
        with as_data_error(partial("dataloader: batch {} cannot be run by the network".format, index)):
            synchronise(runner.device)
            start = time.perf_counter()
            answer = runner.answer(call)
            synchronise(runner.device)
            seconds = time.perf_counter() - start
            other = None if reference is None else reference.answer(reference.call_of(batch, index))
        scores.add(answer, other, targets_of(batch, call), samples_in(call), seconds)
    if not ranks.any_of(scores.images > 0):
        raise DataError("dataloader is empty: evaluate needs at least one batch")


class _Metric:
    """One form for all metrics: told of each batch, asked at the end."""

    def __init__(self, metric: Any) -> None:
        self._metric, self._total, self._count = metric, 0.0, 0
        self._is_object = hasattr(metric, "update") and hasattr(metric, "compute")
        if self._is_object and hasattr(metric, "reset"):
            metric.reset()

    def add(self, answer: object, target: object, count: int) -> None:
        """Tell it of a batch of ``count`` samples."""
        if self._is_object:
            self._metric.update(answer, target)
        else:
            self._total += float(self._metric(answer, target)) * count
            self._count += count

    def result(self) -> object:
        """Its value over all batches."""
        if self._is_object:
            return self._metric.compute()
        total, count = ranks.total_of(self._total, self._count)
        return total / count


def _as_metrics(metrics: object) -> dict[str, _Metric]:
    if metrics is None:
        return {}
    named: Mapping[str, object] = metrics if isinstance(metrics, Mapping) else {_name_of(metrics): metrics}
    for name, metric in named.items():
        if not callable(metric) and not (hasattr(metric, "update") and hasattr(metric, "compute")):
            raise ConfigError(
                f"metrics: {name!r} is {metric!r}. A metric has update(output, target) and compute(), or is a function "
                "(output, target) -> number"
            )
    return {name: _Metric(metric) for name, metric in named.items()}


def _name_of(metric: object) -> str:
    return getattr(metric, "__name__", type(metric).__name__)


class _Scores:
    """Adds up what :func:`evaluate` finds, batch by batch."""

    def __init__(self, metrics: dict[str, _Metric]) -> None:
        self.images, self.metrics = 0, metrics
        self._met = self._targets = self._agreed = self._classes = 0
        self._warned = False
        self._calls: list[tuple[int, float]] = []

    def add(self, answer: object, reference: object, target: object, count: int, seconds: float) -> None:
        """
        :param answer: of the network
        :param reference: of the ANN, or ``None``
        :param target: of the batch, or ``None``
        :param count: of the samples in the batch
        :param seconds: that the network took
        """
        logits = main_tensor(answer)
        if _are_logits(answer, logits, count):
            classes = logits.argmax(1)
            self._warn_of(target, classes, logits.shape[1])
            if are_classes(target, classes):
                self._met += int((classes == target.to(classes.device)).sum())
                self._targets += classes.numel()
            if reference is not None:
                others = main_tensor(reference)
                if others.shape != logits.shape:
                    raise DataError(
                        f"the outputs of the network and of ann cannot be compared: they are {list(logits.shape)} and "
                        f"{list(others.shape)}"
                    )
                self._agreed += int((classes == others.argmax(1).to(classes.device)).sum())
                self._classes += classes.numel()
        for metric in self.metrics.values():
            metric.add(answer, target, count)
        self.images += count
        self._calls.append((count, seconds))

    def _warn_of(self, target: object, classes: Tensor, count: int) -> None:
        """Say once that targets are of no use for the accuracy; metrics may know what to do with them."""
        if self._warned or self.metrics or not isinstance(target, Tensor):
            return
        message = None
        if not are_classes(target, classes):
            message = (
                f"no accuracy: the targets are {target.dtype} {list(target.shape)}, and classes are integers "
                f"{list(classes.shape)}. Give such, or metrics= that take these targets"
            )
        elif target.numel() and (int(target.min()) < 0 or int(target.max()) >= count):
            message = (
                f"targets go from {int(target.min())} to {int(target.max())}, and the network has the classes 0 to "
                f"{count - 1}: samples with other targets count as wrong"
            )
        if message is not None:
            self._warned = True
            warn(f"evaluate: {message}")

    def result(self) -> Evaluation:
        """:return: all of it"""
        calls = self._calls[1:] or self._calls
        speed = sum(count for count, _ in calls) / max(sum(seconds for _, seconds in calls), 1e-9)
        counts = (self.images, self._met, self._targets, self._agreed, self._classes)
        *totals, speed = ranks.total_of(*counts, speed)
        images, met, targets, agreed, classes = map(int, totals)
        return Evaluation(
            images=images,
            accuracy=met / targets if targets else None,
            agreement=agreed / classes if classes else None,
            images_per_second=speed,
            metrics={name: metric.result() for name, metric in self.metrics.items()},
        )


def _are_logits(answer: object, logits: Tensor, count: int) -> bool:
    """Whether there are scores of two classes or more for each sample, and not objects that were found in images."""
    if isinstance(answer, (list, tuple)) and answer and isinstance(answer[0], Mapping):
        return False
    return logits.is_floating_point() and logits.dim() > 1 and len(logits) == count and logits.shape[1] > 1


def are_classes(target: object, classes: Tensor) -> TypeGuard[Tensor]:
    """Whether ``target`` holds the right answer for each of ``classes``."""
    if not isinstance(target, Tensor) or target.is_floating_point() or target.is_complex():
        return False
    return target.shape == classes.shape
