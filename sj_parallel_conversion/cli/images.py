"""Sets of images: folders, arrays, and torchvision's CIFAR."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from ..errors import DataError
from .imports import library
from .preparation import Prepared

CIFAR = {"cifar10": "CIFAR10", "cifar100": "CIFAR100"}  # torchvision's class
Prepare = Callable[[int, bool], Prepared]  # of the channels, and whether all images have one size


class Images(Dataset[Any]):
    """
    Images in an array.

    :param images: uint8 ``[N, H, W]`` or ``[N, H, W, C]``
    :param labels: integers ``[N]``, or ``None``
    :param transform: image of Pillow -> ``[C, H, W]``
    """

    def __init__(self, images: np.ndarray, labels: np.ndarray | None, transform: Callable[[object], Tensor]) -> None:
        self._images, self._labels, self._transform = images, labels, transform
        self._make = library("PIL.Image", "reading images").fromarray

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Tensor | tuple[Tensor, int]:
        x = self._transform(self._make(self._images[index]))
        return x if self._labels is None else (x, int(self._labels[index]))


def read_npz(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """
    :param path: a file with the arrays ``images`` (uint8 ``[N, H, W]`` or ``[N, H, W, C]``, or floats, which networks
        get as they are) and, if there are labels, ``labels`` (integers ``[N]``)
    :return: both
    :raises DataError: if it is no such file
    """
    try:
        with np.load(path) as arrays:  # pickled objects are refused
            found = {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} cannot be read as an .npz file: {error}") from error
    images, labels = found.get("images"), found.get("labels")
    if images is None:
        raise DataError(f"{path} has no array 'images', but {', '.join(found) or 'nothing'}")
    if images.dtype != np.uint8 and not np.issubdtype(images.dtype, np.floating):
        raise DataError(f"{path}: images are {images.dtype}, and must be uint8 or floats")
    if images.dtype == np.uint8 and (images.ndim not in (3, 4) or images.shape[3:] not in ((), (3,))):
        raise DataError(f"{path}: images have shape {list(images.shape)}, and must be [N, H, W] or [N, H, W, 3]")
    if labels is not None and (labels.shape != images.shape[:1] or not np.issubdtype(labels.dtype, np.integer)):
        raise DataError(
            f"{path}: labels are {labels.dtype} {list(labels.shape)}, and must be integers, one for each of "
            f"{len(images)} images"
        )
    return images, labels


def npz(images: np.ndarray, labels: np.ndarray | None, prepare: Prepare) -> tuple[Dataset[Any], str]:
    """
    :param images: uint8, of :func:`read_npz`
    :param labels: of these
    :param prepare: says how images become inputs
    :return: the images, and what is done with them
    """
    transform, words = prepare(3 if images.ndim == 4 else 1, True)
    return Images(images, labels, transform), words


def cifar(name: str, root: str, train: bool, download: bool, prepare: Prepare) -> tuple[Dataset[Any], str]:
    """
    :param name: a key of :data:`CIFAR`
    :param root: of torchvision's data set
    :param train: whether the training images are meant
    :param download: whether they are downloaded, if they are not there
    :param prepare: says how images become inputs
    :return: the images, and what is done with them
    :raises DataError: if they are not there
    """
    datasets = library("torchvision.datasets", name)
    transform, words = prepare(3, True)
    try:
        return getattr(datasets, CIFAR[name])(root, train, transform, download=download), words
    except RuntimeError as error:
        raise DataError(f"{root} has no {name} that is whole: --download gets it. {error}") from error


def _read_image(path: str) -> object:
    """:return: an image of Pillow, in colours. :raises DataError: if the file is damaged, or no image"""
    image = library("PIL.Image", "reading images")
    try:
        with image.open(path) as found:
            return found.convert("RGB")
    except image.UnidentifiedImageError as error:
        raise DataError(f"{path} cannot be read as an image: it is damaged, or of another kind") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read as an image: {error}") from error


def folder(root: Path, prepare: Prepare) -> tuple[Dataset[Any], str]:
    """
    :param root: has a folder for each class. Names that are all numbers are the classes; others are numbered in
        alphabetical order
    :param prepare: says how images become inputs
    :return: the images, and what is done with them
    :raises DataError: if there are none
    """
    datasets = library("torchvision.datasets", "reading images")
    transform, words = prepare(3, False)
    try:
        found = datasets.ImageFolder(str(root), transform, loader=_read_image)
    except FileNotFoundError as error:
        raise DataError(f"{root} is no folder with a folder of images for each class: {error}") from error
    if all(map(str.isdecimal, found.classes)):
        found.target_transform = [int(name) for name in found.classes].__getitem__
    return found, words
