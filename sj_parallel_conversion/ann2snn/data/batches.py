"""Calibration batches: whatever a loader yields becomes a stream of input tensors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from inspect import signature

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, IterableDataset
from tqdm import tqdm

from ...errors import DataError, as_data_error

_INPUT_KEYS = ("image", "images", "pixel_values", "img", "input", "inputs", "input_values", "x", "data")


def model_input(batch: object, index: int) -> Tensor:
    """
    The model's input in one batch: the batch itself, the first element of a tuple or list, or, in a mapping, the
    value under a usual name (``image``, ``pixel_values``, ...) or else the floating tensor with most dimensions.

    :param batch: what a dataloader yielded
    :param index: its number, for the error message
    :raises DataError: if there is no tensor in it, or it is empty, complex or sparse, or has NaN or infinite values
    """
    x = _find_input(batch)
    if x is None:
        raise DataError(
            f"dataloader: batch {index} is a {type(batch).__name__} in which no input tensor was found; "
            'yield x, (x, y, ...), (x,) or {"image": x}'
        )
    if x.dim() < 2 or x.numel() == 0:
        shape = list(x.shape)
        raise DataError(f"dataloader: batch {index} has shape {shape}; give batches [N, ...] with N >= 1")
    if x.is_complex() or x.layout != torch.strided:
        raise DataError(f"dataloader: batch {index} is {x.dtype}, {x.layout}; give dense tensors of real values")
    if x.is_floating_point() and not torch.isfinite(x).all():
        raise DataError(f"dataloader: batch {index} has NaN or infinite values")
    return x


def _find_input(batch: object) -> Tensor | None:
    if isinstance(batch, Mapping):
        named = [batch[key] for key in _INPUT_KEYS if isinstance(batch.get(key), Tensor)]
        tensors = [value for value in batch.values() if isinstance(value, Tensor)]
        return named[0] if named else max(tensors, key=lambda x: (x.is_floating_point(), x.dim()), default=None)
    if isinstance(batch, (tuple, list)):
        return _find_input(batch[0]) if batch else None
    return batch if isinstance(batch, Tensor) else None


def model_arguments(model: nn.Module, batch: object, index: int) -> tuple:
    """
    What a model is called with for one batch: as many elements of it as ``model.forward`` requires. A list of images
    ``[C, H, W]``, which detection models take, is one argument.

    :param model: the model
    :param batch: what a dataloader yielded
    :param index: its number, for the error message
    :return: the arguments
    :raises DataError: if there is no input in the batch
    """
    if isinstance(batch, (tuple, list)) and batch:
        required = [p for p in signature(model.forward).parameters.values() if p.default is p.empty and p.kind <= 1]
        if 1 < len(required) <= len(batch):
            return tuple(batch[: len(required)])
        for images in (batch, batch[0]):
            if isinstance(images, (tuple, list)) and images and all(_is_image(image) for image in images):
                return (list(images),)
    return (model_input(batch, index),)


def _is_image(x: object) -> bool:
    return isinstance(x, Tensor) and x.dim() == 3 and x.is_floating_point()


def replayable(dataloader: Iterable) -> Iterable:
    """
    :param dataloader: what the user gave
    :return: the same, or its batches if it is an iterator that can be read only once
    :raises DataError: if it is None, not iterable, or yields samples instead of batches
    """
    if dataloader is None:
        raise DataError(
            "dataloader=None: conversion needs calibration data (some tens to thousands of unlabelled inputs, such "
            "as a DataLoader of training images) to choose thresholds"
        )
    if isinstance(dataloader, Dataset) and not isinstance(dataloader, IterableDataset):
        raise DataError(
            f"dataloader is a Dataset ({type(dataloader).__name__}), which yields samples without the batch axis; give "
            "torch.utils.data.DataLoader(dataset, batch_size=64)"
        )
    readable = isinstance(dataloader, Iterable) or hasattr(dataloader, "__getitem__")
    if isinstance(dataloader, (Tensor, Mapping, str, type)) or not readable:
        raise DataError(
            f"dataloader must be an iterable of batches, got {type(dataloader).__name__}; wrap one batch x as [x]"
        )
    return list(dataloader) if isinstance(dataloader, Iterator) else dataloader


class CalibrationData:
    """
    The calibration images as a re-iterable stream of ``[N, ...]`` tensors on one device, in the model's dtype.

    :param dataloader: any iterable of batches; a one-shot iterator is kept in memory, so that it can be read again
    :param device: where the batches go
    :param dtype: floating batches are cast to it; ``None`` leaves them
    :param show_progress: whether :meth:`batches` draws a bar
    :raises DataError: if ``dataloader`` is None or not iterable
    """

    def __init__(
        self, dataloader: Iterable, device: torch.device, dtype: torch.dtype | None, show_progress: bool
    ) -> None:
        self._source = replayable(dataloader)
        self._device, self.dtype, self._show_progress = device, dtype, show_progress
        self._latest = "dataloader"

    def first(self) -> Tensor:
        """The first batch."""
        show, self._show_progress = self._show_progress, False
        try:
            return next(self.batches(""))
        finally:
            self._show_progress = show

    def naming_batches(self) -> AbstractContextManager:
        """Within it, what torch raises on a batch becomes a DataError that names the batch."""
        return as_data_error(lambda: f"{self._latest} cannot be run by the network")

    def batches(self, description: str) -> Iterator[Tensor]:
        """
        :param description: the label of the progress bar
        :return: the input tensors, batch by batch
        :raises DataError: if there are none, or a batch is unusable
        """
        count = 0
        for batch in tqdm(self._source, desc=description, disable=not self._show_progress, leave=False):
            x = model_input(batch, count).to(self._device)
            self._latest = f"dataloader: batch {count} of shape {list(x.shape)}"
            yield x.to(self.dtype) if self.dtype is not None and x.is_floating_point() else x
            count += 1
        if count == 0:
            raise DataError("dataloader is empty: conversion needs at least one batch of calibration data")
