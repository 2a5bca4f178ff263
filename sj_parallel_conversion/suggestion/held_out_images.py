"""Images that no calibration has seen, and what the ANN makes of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..analysis.answers import main_tensor, targets_of
from ..analysis.evaluate import are_classes
from ..ann2snn.calibration.judge import digests
from ..ann2snn.data.batches import model_call
from ..ann2snn.data.inputs import Batch
from ..ann2snn.prepared import PreparedANN
from ..errors import DataError

_EVERY = 4  # one image in so many is held out
_LEAST = 8  # held-out images; fewer say nothing
_AT_ONCE = 64  # images


@dataclass
class Part:
    """
    Some held-out images.

    :param batch: the images
    :param classes: that the ANN gives them
    :param targets: the right ones, if they are known
    """

    batch: Batch
    classes: Tensor
    targets: Tensor | None


def split(prepared: PreparedANN, raw: list[object]) -> tuple[list[Batch], list[Part]]:
    """The images that are fitted, and those that are held out. Copies of an image are on the same side."""
    fitted: list[Any] = []
    held_out: list[Any] = []
    data: Any = prepared.data  # all of the data, or some that hand on what they do not have themselves
    whole = data.fixed_batch
    key = prepared.config.seed.to_bytes(8, "big")
    for index, (given, batch) in enumerate(zip(raw, data.batches(""), strict=True)):
        held = torch.tensor([digest[-1] % _EVERY == 0 for digest in digests(batch, whole, key)])
        held = held.expand(batch.size).to(batch.tensors[0].device)
        if not held.all():
            fitted.append(batch.select(~held) if held.any() else batch)
        if held.any():
            targets = targets_of(given, model_call(prepared.captured.plain, given, index))
            held_out += _parts(prepared, data, batch, targets, held)
    count = sum(part.batch.size for part in held_out)
    if count < _LEAST or not fitted:
        raise DataError(
            f"dataloader: {sum(batch.size for batch in fitted) + count} images are too few. One in {_EVERY} is held "
            f"out, and {_LEAST} of these are needed: give {4 * _EVERY * _LEAST} images or more"
        )
    return fitted, held_out


def _parts(prepared: PreparedANN, data: Any, batch: Batch, targets: object, held: Tensor) -> Iterator[Part]:
    right = None
    if isinstance(targets, Tensor) and targets.dim() and len(targets) == batch.size:
        right = targets.to(held.device)[held]
    start = 0
    for part in data.parts(batch.select(held) if not held.all() else batch, _AT_ONCE):
        with data.naming_batches(), prepared.captured.in_full_precision(), torch.no_grad():
            classes = classes_of(prepared.captured.signature.build(prepared.captured.model(*part.clone().tensors)))
        own = None if right is None else right[start : start + part.size]
        start += part.size
        yield Part(part, classes, own if are_classes(own, classes) else None)


def classes_of(answer: object) -> Tensor:
    """
    :param answer: of a network
    :return: the class of each sample, or of each place
    :raises DataError: if there are none
    """
    logits = main_tensor(answer)
    if logits.dim() < 2 or logits.shape[1] < 2:
        raise DataError(
            f"suggest_time_steps compares classes, and the ANN's output has shape {list(logits.shape)}. Convert with "
            "each T, and compare with evaluate(snn, loader, metrics=...)"
        )
    return logits.argmax(1)


def spread_over(batches: list[Batch], count: int, whole: bool) -> list[Batch]:
    """
    :param batches: of all images, which may be sorted by their classes
    :param count: how many images are wanted
    :param whole: whether batches have to stay as they are
    :return: every second, third, ... image, so that there are as many or somewhat more
    """
    total = sum(batch.size for batch in batches)
    every, start, found = max(1, total // count), 0, []
    for number, batch in enumerate(batches):
        if whole:
            found += [batch] if number % every == 0 else []
            continue
        if start < batch.size:
            found.append(batch.select(slice(start, None, every)) if every > 1 else batch)
        start = (start - batch.size) % every if start < batch.size else start - batch.size
    return found
