"""Training and test images of digits, CIFAR-10, CIFAR-100 and ImageNet, with the usual augmentation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset, TensorDataset
from torchvision import datasets
from torchvision.transforms import v2

from . import cifar10, digits

CLASSES = {"digits": 10, "cifar10": 10, "cifar100": 100, "imagenet": 1000}


class ImageSets(NamedTuple):
    """
    :param train: augmented training images with labels
    :param plain: training images as in a test: thresholds and calibrations are chosen on them
    :param test: test images with labels
    """

    train: Dataset
    plain: Dataset
    test: Dataset


class Arrays(Dataset):
    """
    Images in memory.

    :param images: uint8 ``[N, H, W, 3]``
    :param labels: ``[N]``
    :param transform: of one image ``[3, H, W]``
    """

    def __init__(self, images: np.ndarray, labels: np.ndarray, transform: Callable[[Tensor], Tensor]) -> None:
        self.images = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
        self.labels, self.transform = torch.from_numpy(np.asarray(labels)).long(), transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(self.images[index]), int(self.labels[index])


def load(name: str, root: Path | None, augment: str, seed: int) -> ImageSets:
    """
    :param name: a key of :data:`CLASSES`
    :param root: folder with the images; digits need none. For CIFAR-10 it may hold ``cifar10/train.npz`` and
        ``cifar10/test.npz`` (arrays ``images`` and ``labels``). All else is laid out as for torchvision's data sets
    :param augment: ``"none"``, ``"flip"`` (flips and shifted crops), ``"auto"`` (these, AutoAugment and Cutout)
    :param seed: of the division of the digits
    :return: the data sets
    :raises FileNotFoundError: if there is no folder, or not with these images
    """
    if name == "digits":
        return _digits(seed)
    if root is None:
        raise FileNotFoundError(f"--data-root: where are the images of {name}?")
    train, test = _transform(name, augment), _transform(name, None)
    if name == "imagenet":
        folders = {split: datasets.ImageNet(str(root), split) for split in ("train", "val")}
        plain = datasets.ImageNet(str(root), "train", transform=test)
        folders["train"].transform, folders["val"].transform = train, test
        return ImageSets(folders["train"], plain, folders["val"])
    of = {split: _arrays(name, root, split) for split in ("train", "test")}
    return ImageSets(Arrays(*of["train"], train), Arrays(*of["train"], test), Arrays(*of["test"], test))


def first(dataset: Dataset, number: int) -> Dataset:
    """``number`` samples of ``dataset``, evenly spread: some data sets are sorted by class."""
    return Subset(dataset, torch.linspace(0, len(dataset) - 1, min(number, len(dataset))).long().tolist())


def _digits(seed: int) -> ImageSets:
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        train, images, labels = digits.load_data()
    return ImageSets(train, train, TensorDataset(images, labels))


def _arrays(name: str, root: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    file = root / "cifar10" / f"{split}.npz"
    if name == "cifar10" and file.is_file():
        with np.load(file) as data:
            return data["images"], data["labels"]
    kind = datasets.CIFAR10 if name == "cifar10" else datasets.CIFAR100
    if not (root / kind.base_folder).is_dir():
        raise FileNotFoundError(
            f"{root} has no folder {kind.base_folder}. To download it: "
            f"torchvision.datasets.{kind.__name__}({str(root)!r}, download=True)"
        )
    dataset = kind(str(root), train=split == "train")
    return dataset.data, np.array(dataset.targets)


def _transform(name: str, augment: str | None) -> Callable[[Tensor], Tensor]:
    """:param augment: ``None`` for a test"""
    large = name == "imagenet"
    steps: list[Callable] = [v2.ToImage()]
    if augment in (None, "none"):
        steps += [v2.Resize(256, antialias=True), v2.CenterCrop(224)] if large else []
    else:
        steps += [v2.RandomResizedCrop(224, antialias=True)] if large else [v2.RandomCrop(32, padding=4)]
        steps += [v2.RandomHorizontalFlip()]
    if augment == "auto":
        steps += [v2.AutoAugment(v2.AutoAugmentPolicy.IMAGENET if large else v2.AutoAugmentPolicy.CIFAR10)]
    steps += [v2.ToDtype(torch.float32, scale=True), v2.Normalize(cifar10.MEAN, cifar10.STD), v2.ToPureTensor()]
    if augment == "auto" and not large:  # Cutout: a square of half the width
        steps += [v2.RandomErasing(p=1.0, scale=(0.25, 0.25), ratio=(1.0, 1.0))]
    return v2.Compose(steps)
