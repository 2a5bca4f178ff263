"""Conversions on the same data in the same run: accuracy, agreement with the ANN, time and memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from statistics import median

import torch
from common import percent, synchronise
from spikingjelly_recipes import Convert, convert, step_logits
from timing import peak_memory
from torch import Tensor, nn
from tqdm import tqdm

import sj_parallel_conversion as sjpc


@dataclass(frozen=True, order=True)
class Score:
    """
    :param accuracy: on the test images, in percent
    :param agreement: held-out images given the class that the ANN gives them, in percent
    :param setting: of the recipe, where several were tried
    """

    accuracy: float
    agreement: float
    setting: str = ""


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
        """:return: logits for the test images and for the held-out images"""
        return self.logits(predict, self.test), self.logits(predict, self.held_out)

    def score(self, test: Tensor, held_out: Tensor, setting: str = "") -> Score:
        """:return: of logits ``[images, classes]``"""
        agreement = percent(held_out.argmax(-1) == self.ann_classes)
        return Score(percent(test.argmax(-1) == self.labels), agreement, setting)

    def timed(self, run: Callable[[], nn.Module]) -> tuple[nn.Module, float]:
        """:return: what a conversion returns, and its time over that of the ANN's pass just before it"""
        start = time.perf_counter()
        for x, _ in self.loader:
            self.ann(x.to(self.device))
        synchronise(self.device)
        between = time.perf_counter()
        result = run()
        synchronise(self.device)
        return result, (time.perf_counter() - between) / (between - start)

    def step(self, threshold: str, calibration: str, time_steps: Sequence[int], memory: bool, **options: object) -> Row:
        """:return: the line of one of this package's calibrations"""
        row, costs = Row(f'"{threshold}", "{calibration}"'), []
        flags = {"threshold": threshold, "calibration": calibration, "show_progress": False, **options}
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
        """:return: the line of a recipe of SpikingJelly: for each T the setting and the beginning of the readout with
        the highest test accuracy, chosen on the test images, which favours the recipe"""
        row, costs = Row(name), {}
        for setting, converter in tqdm(converters.items(), desc=name, leave=False):
            try:
                snn, costs[setting] = self.timed(partial(convert, ann, converter))
                test, held_out = self.answers(partial(step_logits, snn, max(time_steps)))
            except Exception as error:  # the recipe's own, whatever its type
                row.failure = f"{setting}: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
                continue
            for T in time_steps:
                tried = [
                    self.score(test[t:T].sum(0), held_out[t:T].sum(0), f"{setting}, read from step {t}")
                    for t in range(T)
                ]
                row.scores[T] = max(tried if T not in row.scores else [row.scores[T], *tried])
        if row.scores:
            chosen = [score.setting.rpartition(",")[0] for score in row.scores.values()]
            row.cost, row.failure = median(costs[setting] for setting in chosen), ""
            row.peak_mebibytes = peak_memory(converters[chosen[-1]], ann) if memory else None
        return row
