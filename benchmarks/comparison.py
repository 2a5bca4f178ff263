"""Conversions on the same data in the same run: accuracy, agreement with the ANN, time and memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from statistics import mean, median

import torch
from helpers.evaluation import percent, synchronise
from spikingjelly_recipes import Convert, convert, step_logits
from timing import peak_memory
from torch import Tensor, nn
from tqdm import tqdm

import sj_parallel_conversion as sjpc

# What SpikingJelly's recipes and torch.fx raise for a network that they cannot convert.
REFUSALS = (ValueError, TypeError, AttributeError, NotImplementedError, RuntimeError)


@dataclass(frozen=True, order=True)
class Score:
    """
    :param accuracy: on the test images, in percent
    :param agreement: held-out images given the class that the ANN gives them, in percent
    :param setting: of the recipe, where several were tried
    :param deviation: standard deviation of the accuracy, if these are means over draws of the calibration images
    """

    accuracy: float
    agreement: float
    setting: str = ""
    deviation: float | None = None


@dataclass
class Row:
    """
    One line of the table.

    :param method: what converted
    :param scores: by T
    :param cost: time of a conversion over that of one pass of the ANN over the calibration images, median over T
    :param peak_mebibytes: peak memory of a conversion in a fresh process; ``None`` if not measured
    :param failure: why there are no scores
    """

    method: str
    scores: dict[int, Score] = field(default_factory=dict)
    cost: float | None = None
    peak_mebibytes: float | None = None
    failure: str = ""


class Comparison:
    """
    Data, and the ANN's answers to compare with.

    :param ann: trained classifier
    :param loader: calibration data
    :param test: test data
    :param held_out: images that no conversion and no score but the agreement has seen; labels are not used
    """

    def __init__(self, ann: nn.Module, loader: Iterable, test: Iterable, held_out: Iterable) -> None:
        self.ann, self.loader, self.test, self.held_out = ann, loader, test, held_out
        self.device = next(ann.parameters()).device
        self.labels = torch.cat([y for _, y in test])
        self.ann_classes = self.logits(ann, held_out).argmax(-1)
        self.ann_accuracy = self.score(*self.answers(ann)).accuracy

    def logits(self, predict: Callable[[Tensor], Tensor], data: Iterable) -> Tensor:
        """
        :param predict: images to logits ``[..., N, classes]``
        :param data: batches ``(x, y)``
        :return: the logits ``[..., images, classes]``
        """
        return torch.cat([predict(x.to(self.device)).cpu() for x, _ in data], dim=-2)

    def answers(self, predict: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """
        :param predict: images to logits ``[..., N, classes]``
        :return: the logits for the test images and for the held-out images
        """
        return self.logits(predict, self.test), self.logits(predict, self.held_out)

    def score(self, test: Tensor, held_out: Tensor, setting: str = "") -> Score:
        """
        :param test: logits ``[images, classes]``
        :param held_out: logits ``[images, classes]``
        :param setting: of the recipe
        :return: accuracy and agreement
        """
        agreement = percent(held_out.argmax(-1) == self.ann_classes)
        return Score(percent(test.argmax(-1) == self.labels), agreement, setting)

    def best_readouts(self, snn: nn.Module, time_steps: Sequence[int]) -> dict[int, tuple[Tensor, int]]:
        """
        :param snn: converted by SpikingJelly
        :param time_steps: the T to try
        :return: for each T the logits for the test images whose accuracy is highest, of the readouts from any first
            step to T, and the first step
        """
        logits = self.logits(partial(step_logits, snn, max(time_steps)), self.test)
        best = {}
        for T in time_steps:
            readouts = [(logits[start:T].sum(0), start) for start in range(T)]
            best[T] = max(readouts, key=lambda readout: self.hits(readout[0]))
        return best

    def hits(self, test: Tensor) -> int:
        """
        :param test: logits ``[images, classes]``
        :return: how many test images get the right class
        """
        return int((test.argmax(-1) == self.labels).sum())

    def seconds(self) -> float:
        """
        :return: time of one pass of the ANN over the calibration images
        """
        start = time.perf_counter()
        for x, _ in self.loader:
            self.ann(x.to(self.device))
        synchronise(self.device)
        return time.perf_counter() - start

    def timed(self, run: Callable[[], nn.Module]) -> tuple[nn.Module, float]:
        """
        :param run: a conversion
        :return: the spiking network, and the conversion's time over that of the ANN's passes before and after it
        """
        before, start = self.seconds(), time.perf_counter()
        snn = run()
        synchronise(self.device)
        own = time.perf_counter() - start
        return snn, own / mean((before, self.seconds()))

    def calibration(
        self, setting: Sequence[str], time_steps: Sequence[int], memory: bool, **options: object
    ) -> Row:
        """
        :param setting: threshold and calibration of the conversion, and its ``shortcut`` or not
        :param time_steps: the T to try
        :param memory: whether peak memory is measured, at the last T
        :param options: further options of the conversion
        :return: the line of one of this package's calibrations
        """
        row, costs = Row(", ".join(f'"{flag}"' for flag in setting)), []
        flags = dict(zip(("threshold", "calibration", "shortcut"), setting, strict=False))
        flags |= {"show_progress": False, **options}
        for T in tqdm(time_steps, desc=row.method, leave=False):
            converter = sjpc.ParallelConverter(self.loader, time_steps=T, **flags)
            snn, cost = self.timed(partial(converter.convert, self.ann))
            row.scores[T] = self.score(*self.answers(snn.predict))
            costs.append(cost)
        row.cost = median(costs)
        row.peak_mebibytes = peak_memory(converter.convert, self.ann) if memory else None
        return row

    def recipe(
        self, name: str, converters: dict[str, Convert], ann: nn.Module, time_steps: Sequence[int], memory: bool
    ) -> Row:
        """
        :param name: of the recipe
        :param converters: by setting
        :param ann: the ANN in a form that the recipe takes
        :param time_steps: the T to try
        :param memory: whether peak memory is measured, with the setting that is best at the last T
        :return: the line of a recipe of SpikingJelly, for each T with the setting and the readout that give the
            highest accuracy on the test images themselves, which favours the recipe
        """
        found: dict[str, tuple[nn.Module, dict[int, tuple[Tensor, int]]]] = {}
        costs, failure = {}, ""
        for setting, converter in tqdm(converters.items(), desc=name, leave=False):
            try:
                snn, costs[setting] = self.timed(partial(convert, ann, converter))
            except REFUSALS as error:
                failure = f"{setting}: {type(error).__name__}: {error}".splitlines()[0]
                tqdm.write(f"{name}, {failure}")
                continue
            found[setting] = snn, self.best_readouts(snn, time_steps)
        if not found:
            return Row(name, failure=failure)
        chosen = {T: max(found, key=lambda setting, T=T: self.hits(found[setting][1][T][0])) for T in time_steps}
        # only what is chosen is run on the held-out images: a step costs as much as a pass of the ANN
        steps = {setting: partial(step_logits, found[setting][0], max(time_steps)) for setting in chosen.values()}
        held_out = {setting: self.logits(predict, self.held_out) for setting, predict in steps.items()}
        row = Row(name, cost=median(costs[setting] for setting in chosen.values()))
        for T, setting in chosen.items():
            test, start = found[setting][1][T]
            row.scores[T] = self.score(test, held_out[setting][start:T].sum(0), f"{setting}, read from step {start}")
        row.peak_mebibytes = peak_memory(converters[chosen[time_steps[-1]]], ann) if memory else None
        return row
