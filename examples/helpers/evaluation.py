"""Measure a network on test images, and print the results as a table."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from tqdm import tqdm

from sj_parallel_conversion import SpikingNetwork

Predict = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Result:
    """
    One line of the table.

    :param method: what was measured
    :param time_steps: T, ``None`` for an ANN
    :param accuracy: in percent
    :param agreement: inputs given the class that the ANN gives them, in percent
    :param images_per_second: speed, of the fastest batch
    :param setting: of the method, where several were tried
    :param digits: spikes per activation, where they were counted
    """

    method: str
    time_steps: int | None
    accuracy: float
    agreement: float
    images_per_second: float
    setting: str = ""
    digits: float | None = None


@dataclass(frozen=True)
class Evaluation:
    """
    Test images, and the answers to compare with.

    :param images: ``[N, ...]``
    :param labels: ``[N]``
    :param ann: the network that others are compared with
    :param batch_size: images in one call
    """

    images: Tensor
    labels: Tensor
    ann: Predict
    batch_size: int = 100

    @cached_property
    def ann_classes(self) -> Tensor:
        """The classes ``[N]`` that the ANN gives."""
        return self.classes(self.ann)[0]

    @torch.no_grad()
    def classes(self, predict: Predict, progress: str | None = None) -> tuple[Tensor, float]:
        """
        :param predict: ``[N, ...]`` images to ``[N, classes]`` logits
        :param progress: name of the progress bar, ``None`` for no bar
        :return: the classes ``[N]``, and the images per second of the fastest batch: the first call warms up, and
            other work on the machine can only slow the rest down
        """
        classes, speed = [], 0.0
        batches = self.images.split(self.batch_size)
        for batch in tqdm(batches, desc=progress, leave=False, disable=progress is None):
            start = time.perf_counter()
            classes.append(predict(batch).argmax(1))
            synchronise(batch.device)
            speed = max(speed, len(batch) / (time.perf_counter() - start))
        return torch.cat(classes), speed

    def measure(
        self, method: str, time_steps: int | None, predict: Predict, setting: str = "", digits: float | None = None
    ) -> Result:
        """
        :param method: what to call it
        :param time_steps: T, ``None`` for an ANN
        :param predict: ``[N, ...]`` images to ``[N, classes]`` logits
        :param setting: of the method
        :param digits: see :func:`digits_per_activation`
        :return: accuracy, agreement with the ANN and speed
        """
        name = method if time_steps is None else f"{method}, T={time_steps}"
        classes, speed = self.classes(predict, name)
        return self.result(method, time_steps, classes, speed, setting, digits)

    def result(
        self,
        method: str,
        time_steps: int | None,
        classes: Tensor,
        speed: float,
        setting: str = "",
        digits: float | None = None,
    ) -> Result:
        """
        :param method: what to call it
        :param time_steps: T, ``None`` for an ANN
        :param classes: ``[N]``, those that it gives
        :param speed: images per second
        :param setting: of the method
        :param digits: see :func:`digits_per_activation`
        :return: accuracy and agreement with the ANN
        """
        return Result(
            method,
            time_steps,
            percent(classes == self.labels),
            percent(classes == self.ann_classes),
            speed,
            setting,
            digits,
        )


def percent(hits: Tensor) -> float:
    """
    :param hits: booleans
    :return: the share of true ones, in percent
    """
    return 100 * hits.double().mean().item()


@torch.no_grad()
def digits_per_activation(snn: SpikingNetwork, images: Tensor, batch_size: int = 100) -> float:
    """
    :param snn: converted network, in execution "spikes"
    :param images: ``[N, ...]``
    :param batch_size: images in one call
    :return: how many spikes (non-zero digits, of either sign) a neuron emits in the whole window, on average over all
        neurons and images
    """
    counts: list[tuple[Tensor, int]] = []

    def see(node: nn.Module, args: tuple, train: Tensor) -> None:
        counts.append((train.count_nonzero(), train[0].numel()))

    hooks = [site.node.register_forward_hook(see) for site in snn.neurons()]
    for batch in images.split(batch_size):
        snn.predict(batch)
    for hook in hooks:
        hook.remove()
    spikes, activations = zip(*counts, strict=True)
    return int(sum(spikes)) / sum(activations)


def synchronise(device: torch.device) -> None:
    """Wait for the device: CUDA returns before it has computed."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def table(results: Sequence[Result]) -> str:
    """
    :param results: the lines
    :return: a table, ready to print
    """
    names = [f"{r.method} ({r.setting})" if r.setting else r.method for r in results]
    width = max(len(name) for name in ["method", *names])
    lines = [f"{'method':<{width}} {'T':>4} {'accuracy %':>11} {'agreement %':>12} {'images/s':>10} {'digits':>7}"]
    lines.append("-" * len(lines[0]))
    for name, r in zip(names, results, strict=True):
        steps = "" if r.time_steps is None else r.time_steps
        values = f"{r.accuracy:>11.2f} {r.agreement:>12.2f} {r.images_per_second:>10,.0f}"
        digits = "" if r.digits is None else f"{r.digits:.2f}"
        lines.append(f"{name:<{width}} {steps:>4} {values} {digits:>7}".rstrip())
    return "\n".join(lines)
