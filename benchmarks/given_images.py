"""A network and images for it: ResNets on CIFAR-10, or all that the command line of the package takes."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import NamedTuple

import torch
from helpers.cifar10 import load_images, load_resnet
from helpers.models import CIFAR_MODELS
from torch import Tensor, nn

from sj_parallel_conversion.cli.data import DataOptions, Reader
from sj_parallel_conversion.cli.models import ModelOptions, load_model
from sj_parallel_conversion.cli.preparation import ImageOptions

_BATCH = 64


class Given(NamedTuple):
    """
    What is measured, and on what.

    :param ann: in evaluation mode
    :param calibration: batches of images
    :param images: to test on, ``[N, C, H, W]``
    :param labels: their classes, ``[N]``
    """

    ann: nn.Module
    calibration: list[Tensor]
    images: Tensor
    labels: Tensor


def add_options(parser: argparse.ArgumentParser, calibration_images: int) -> None:
    """
    :param parser: gets the options that :func:`load` reads
    :param calibration_images: how many there are unless the user says so
    """
    parser.add_argument("--model", default="resnet20", help=f"{', '.join(CIFAR_MODELS)}, or as on the command line")
    parser.add_argument("--weights", help="a file (default: DATA_ROOT/weights/MODEL_cifar10.pt), or a name of weights")
    parser.add_argument("--model-args", type=json.loads, metavar="JSON", help="of the model's factory")
    parser.add_argument("--data-root", type=Path, metavar="DIR", help="of CIFAR-10, for its models")
    parser.add_argument("--calibration-data", metavar="DATA", help="for other models")
    parser.add_argument("--calibration-images", type=int, default=calibration_images, metavar="N")
    parser.add_argument("--test-data", metavar="DATA")
    add_image_options(parser)


def add_image_options(parser: argparse.ArgumentParser) -> None:
    """
    :param parser: gets the options that :func:`image_options` reads
    """
    parser.add_argument("--image-size", type=int, metavar="N", help="height and width, cropped from the centre")
    parser.add_argument("--resize-size", type=int, metavar="N", help="the shorter side before cropping")
    parser.add_argument("--interpolation", choices=("nearest", "bilinear", "bicubic"), help="(default: bilinear)")
    parser.add_argument("--mean", type=float, nargs="+", metavar="X", help="of pixels from 0 to 1, by channel")
    parser.add_argument("--std", type=float, nargs="+", metavar="X")


def image_options(args: argparse.Namespace) -> ImageOptions:
    """
    :param args: with the options of :func:`add_image_options`
    :return: how images become inputs
    """
    return ImageOptions(args.image_size, args.resize_size, args.interpolation, args.mean, args.std)


def check_options(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """
    End the process with a message, if an option is missing.

    :param parser: which prints the message
    :param args: with the options of :func:`add_options`
    """
    needed = ("data_root",) if args.model in CIFAR_MODELS else ("calibration_data", "test_data")
    for name in needed:
        if getattr(args, name) is None:
            parser.error(f"--model {args.model} needs --{name.replace('_', '-')}")


def load(args: argparse.Namespace, test_images: int | None) -> Given:
    """
    :param args: with the options of :func:`add_options`
    :param test_images: how many at most; ``None``: all
    :return: what they name
    """
    return (_cifar if args.model in CIFAR_MODELS else _named)(args, test_images)


def _cifar(args: argparse.Namespace, test_images: int | None) -> Given:
    weights = args.weights or args.data_root / "weights" / f"{args.model}_cifar10.pt"
    calibration, _ = load_images(args.data_root, "train", args.calibration_images)
    tests = load_images(args.data_root, "test", test_images)
    return Given(load_resnet(args.model, Path(weights)), list(calibration.split(_BATCH)), *tests)


def _named(args: argparse.Namespace, test_images: int | None) -> Given:
    trained = load_model(args.model, ModelOptions(args.weights, args.model_args))

    def reader(images: int | None) -> Reader:
        return Reader(DataOptions(images, _BATCH), image_options(args), trained.preparation)

    calibration = [x for x, _ in reader(args.calibration_images).to_calibrate(args.calibration_data)]
    images, labels = zip(*reader(test_images).to_evaluate(args.test_data), strict=True)
    return Given(trained.network, calibration, torch.cat(images), torch.cat(labels))
