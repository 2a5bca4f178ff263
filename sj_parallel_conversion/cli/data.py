"""Data by name: folders of images, .npz files, CIFAR, and the user's own loaders."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from ..errors import ConfigError, DataError
from .images import CIFAR, cifar, folder, npz, read_npz
from .imports import thing
from .preparation import ImageOptions, Preparation, Prepared, plain

_USUAL_IMAGES = 1024  # of a calibration
_USUAL_BATCH = 64
_EXPECTED = (
    "a folder with a folder for each class, an .npz file, cifar10:ROOT, cifar100:ROOT, package.module:loader or "
    "file.py:loader"
)


@dataclass(frozen=True)
class DataOptions:
    """
    How data are read.

    :param images: how many are used, a random choice. Default: 1024 to calibrate on, all to evaluate on
    :param batch_size: default: 64
    :param workers: processes that read images; 0: the command's own
    :param download: whether CIFAR is downloaded, if it is not there
    """

    images: int | None = None
    batch_size: int | None = None
    workers: int = 0
    download: bool = False

    def __post_init__(self) -> None:
        for name, least in (("images", 1), ("batch_size", 1), ("workers", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"{name} must be at least {least}, got {value}")


@dataclass(frozen=True)
class Reader:
    """
    Opens data as the user's flags say.

    :param options: how data are read
    :param image_options: how images become inputs
    :param preparation: the model's own way to prepare images, if it is known
    :param seed: of the choice of images
    """

    options: DataOptions
    image_options: ImageOptions
    preparation: Preparation | None
    seed: int = 0

    def to_calibrate(self, data: str) -> Iterable[Any]:
        """
        Training images in a random order.

        :param data: what the user calls it
        :return: batches
        :raises ConfigError: if there are no such data
        """
        return self._open(data, train=True, most=self.options.images or _USUAL_IMAGES)

    def to_evaluate(self, data: str) -> Iterable[Any]:
        """As :meth:`to_calibrate`, but test images in their order, and all of them if no number was given."""
        return self._open(data, train=False, most=self.options.images)

    def to_test(self, data: str) -> Iterable[Any]:
        """All test images: the number that was given is that of a calibration."""
        return replace(self, options=replace(self.options, images=None)).to_evaluate(data)

    def _open(self, data: str, train: bool, most: int | None) -> Iterable[Any]:
        source, words = self._source(data, train)
        if not _can_be_chosen_from(source):
            given = self.options
            self._refuse(data, images=given.images, batch_size=given.batch_size, workers=given.workers or None)
            return source
        if len(source) == 0:
            raise DataError(f"data {data!r}: it is empty")
        order = torch.randperm(len(source), generator=torch.Generator().manual_seed(self.seed))[:most]
        chosen = (order if train else order.sort().values).tolist()
        print(": ".join(filter(None, [f"{data}, {len(chosen):,} of {len(source):,}", words])))
        size = self.options.batch_size or _USUAL_BATCH
        return DataLoader(Subset(source, chosen), size, num_workers=self.options.workers)

    def _source(self, data: str, train: bool) -> tuple[Any, str]:
        kind, _, root = data.partition(":")
        if kind in CIFAR and root:
            return cifar(kind, root, train, self.options.download, self._prepare)
        self._refuse(data, download=self.options.download or None)
        path = Path(data)
        if path.is_dir():
            return folder(path, self._prepare)
        if path.is_file() and path.suffix == ".npz":
            images, labels = read_npz(path)
            if images.dtype == np.uint8:
                return npz(images, labels, self._prepare)
            self._refuse(f"{data}, which holds floats", **self.image_options.given)
            return TensorDataset(*(torch.from_numpy(x) for x in (images, labels) if x is not None)), "as they are"
        if ":" not in data:
            found = f"{data} is none of these" if path.exists() else f"there is no {data}"
            raise ConfigError(f"data: {found}. Give {_EXPECTED}")
        self._refuse(data, **self.image_options.given)
        return _own(data), ""

    def _prepare(self, channels: int, same_size: bool) -> Prepared:
        if self.preparation is not None:
            return self.preparation(self.image_options)
        return plain(self.image_options, channels, same_size)

    def _refuse(self, data: str, **options: object) -> None:
        """:raises ConfigError: if an option was given that these data do not take"""
        given = [f"--{name.replace('_', '-')}" for name, value in options.items() if value is not None]
        if given:
            raise ConfigError(f"{', '.join(given)} changes nothing in data from {data}")


def _can_be_chosen_from(source: object) -> bool:
    return isinstance(source, Dataset) and not isinstance(source, IterableDataset)


def _own(place: str) -> Iterable[Any] | Dataset[Any]:
    """What yields batches, or makes it, in a module or a file of the user's."""
    found = thing(place, "data")
    source = found() if callable(found) and not isinstance(found, (DataLoader, Dataset)) else found
    if not isinstance(source, (Iterable, Dataset)):
        kind = type(source).__name__
        raise ConfigError(f"data {place!r} gives something of type {kind}, and neither a Dataset nor batches")
    return source
