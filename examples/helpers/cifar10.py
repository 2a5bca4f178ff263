"""CIFAR-10 images and trained weights, from a folder of .npz files or from torchvision's copy."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from .models import CIFAR_MODELS, cifar_resnet

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
MODES = ["parallel", "spikepack", "css"]


def normalise(images: np.ndarray) -> Tensor:
    """
    :param images: uint8 ``[N, 32, 32, 3]``
    :return: float32 ``[N, 3, 32, 32]``, as the networks were trained on
    """
    x = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous().float() / 255
    return (x - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def load_images(root: Path, split: str, limit: int | None = None) -> tuple[Tensor, Tensor]:
    """
    :param root: a folder with ``cifar10/train.npz`` and ``cifar10/test.npz`` (arrays ``images`` and ``labels``), or
        the root of torchvision's ``CIFAR10``
    :param split: ``"train"`` or ``"test"``
    :param limit: read the first images only
    :return: normalised images ``[N, 3, 32, 32]`` and labels ``[N]``
    :raises FileNotFoundError: if the folder has neither
    """
    file = root / "cifar10" / f"{split}.npz"
    if file.is_file():
        with np.load(file) as data:
            images, labels = data["images"], data["labels"]
    elif (root / "cifar-10-batches-py").is_dir():
        from torchvision.datasets import CIFAR10

        dataset = CIFAR10(str(root), train=split == "train")
        images, labels = dataset.data, np.array(dataset.targets)
    else:
        raise FileNotFoundError(
            f"{root} has neither cifar10/{split}.npz nor cifar-10-batches-py/; "
            f"to download CIFAR-10: torchvision.datasets.CIFAR10({str(root)!r}, download=True)"
        )
    return normalise(images[:limit]), torch.from_numpy(labels[:limit]).long()


def load_resnet(name: str, weights: Path) -> nn.Module:
    """
    :param name: ``"resnet20"`` or ``"resnet32"``
    :param weights: a state dict, or a training checkpoint with a ``state_dict`` (names may begin with ``module.``)
    :return: the trained network, in evaluation mode
    """
    state = torch.load(weights, map_location="cpu", weights_only=True)
    state = state.get("state_dict", state)
    model = cifar_resnet(name)
    model.load_state_dict({key.removeprefix("module."): value for key, value in state.items()})
    return model.eval()


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """
    :param parser: gets ``--data-root``, ``--model`` and ``--weights``, which :func:`load_model` reads
    """
    parser.add_argument("--data-root", type=Path, required=True, help="folder with the images")
    parser.add_argument("--model", choices=CIFAR_MODELS, default="resnet20")
    parser.add_argument("--weights", type=Path, help="state dict (default: DATA_ROOT/weights/MODEL_cifar10.pt)")


def add_mode_options(parser: argparse.ArgumentParser) -> None:
    """
    :param parser: gets ``--modes`` and ``--test-images``
    """
    parser.add_argument("--modes", nargs="+", choices=MODES, default=MODES)
    parser.add_argument("--test-images", type=int, metavar="N", help="(default: all)")


def load_model(args: argparse.Namespace) -> nn.Module:
    """
    :param args: a command line with the options of :func:`add_model_options`
    :return: the trained network that it names, in evaluation mode
    """
    return load_resnet(args.model, args.weights or args.data_root / "weights" / f"{args.model}_cifar10.pt")
