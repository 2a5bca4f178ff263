"""Accuracy, agreement with the ANN, and cost of conversions of an ImageNet network.

    python benchmarks/imagenet.py --model torchvision:resnet18 --weights DEFAULT --calibration-data IMAGENET/train \
        --test-data IMAGENET/val
    python benchmarks/imagenet.py --icml2025 --calibration-data IMAGENET/train --test-data IMAGENET/val
    python benchmarks/imagenet.py --model benchmarks/efficientnet_lite.py:lite0 --calibration-data DIR/calibration \
        --test-data DIR/test --image-size 224 --resize-size 256 --interpolation bicubic --mean 0.49804 --std 0.50196

A model is named as on the command line of the package: torchvision:NAME, timm:NAME, package.module:factory or
file.py:factory. Data are folders with a folder for each class, whose name is the class's number, or, where names are
words, which are numbered in alphabetical order. The second call prints the table of the ICML 2025 paper for its four
networks, with its calibration and with this package's. The ReLU behind the first layer stays, as it does there.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import mean

import torch
from given_images import add_image_options, image_options
from helpers.evaluation import percent
from torch import Tensor, nn

import sj_parallel_conversion as sjpc
from sj_parallel_conversion.cli.data import DataOptions, Reader
from sj_parallel_conversion.cli.models import ModelOptions, load_model

ICML_NETWORKS = ("resnet18", "resnet34", "resnet50", "resnet101")
ICML_TIME_STEPS = (8, 16, 32, 64)
SETTINGS = ("parallel:max:da_qcfs", "parallel:mse:least_squares", "parallel:mse:weights", "parallel:mse:reconstruction")


@dataclass(frozen=True)
class Cell:
    """
    What one setting gave at one T, as means over draws of the calibration images.

    :param accuracy: in percent
    :param agreement: test images that get the ANN's class, in percent
    :param passes: time of a conversion over that of one pass of the ANN over the calibration images
    """

    accuracy: float
    agreement: float
    passes: float


@torch.no_grad()
def classes(predict: Callable[[Tensor], Tensor], data: Iterable, device: torch.device) -> Tensor:
    """
    :param predict: images to logits
    :param data: batches ``(x, y)``
    :param device: of the network
    :return: the class of each image
    """
    return torch.cat([predict(x.to(device)).argmax(1).cpu() for x, _ in data])


class Study:
    """
    A network and its test images.

    :param ann: in evaluation mode
    :param test: batches ``(x, y)``
    :param keep: modules that stay as they are in conversions
    """

    def __init__(self, ann: nn.Module, test: Iterable, keep: Sequence[str] = ()) -> None:
        self.ann, self.test, self.keep = ann, test, tuple(keep)
        self.device = next(ann.parameters()).device
        self.labels = torch.cat([y for _, y in test])
        self.ann_classes = classes(ann, test, self.device)
        self.ann_accuracy = percent(self.ann_classes == self.labels)

    def cell(self, setting: str, time_steps: int, draws: Sequence[list]) -> Cell:
        """
        :param setting: ``mode:threshold:calibration``
        :param time_steps: T
        :param draws: calibration batches, one list a draw
        :return: the means over the draws
        """
        found = [self._of(setting, time_steps, batches) for batches in draws]
        return Cell(*(mean(getattr(cell, name) for cell in found) for name in ("accuracy", "agreement", "passes")))

    def _of(self, setting: str, time_steps: int, batches: list) -> Cell:
        mode, threshold, calibration = setting.split(":")
        converter = sjpc.ParallelConverter(
            batches, mode=mode, threshold=threshold, calibration=calibration, time_steps=time_steps, keep=self.keep,
            show_progress=False,
        )  # fmt: skip
        own, snn = _timed(lambda: converter.convert(self.ann))
        one, _ = _timed(lambda: classes(self.ann, batches, self.device))
        snn.execution = "packed"
        found = classes(snn.predict, self.test, self.device)
        return Cell(percent(found == self.labels), percent(found == self.ann_classes), own / one)


def _timed(run: Callable[[], object]) -> tuple[float, object]:
    start = time.perf_counter()
    result = run()
    return time.perf_counter() - start, result


def print_table(study: Study, name: str, settings: Sequence[str], time_steps: Sequence[int], draws: list) -> None:
    """
    Print a line as soon as it is known: a line of a large network takes hours.

    :param study: of the network
    :param name: of the network
    :param settings: ``mode:threshold:calibration`` each
    :param time_steps: the T to try
    :param draws: calibration batches, one list a draw
    """
    print(f"\n{name}: ANN {study.ann_accuracy:.2f} %. In %: accuracy (agreement with the ANN), passes of the ANN\n")
    print("| mode, threshold, calibration | " + " | ".join(f"T={T}" for T in time_steps) + " |")
    print("|---" * (len(time_steps) + 1) + "|", flush=True)
    for setting in settings:
        cells = [study.cell(setting, T, draws) for T in time_steps]
        words = [f"{cell.accuracy:.2f} ({cell.agreement:.2f}), {cell.passes:.0f}" for cell in cells]
        print(f"| {', '.join(setting.split(':'))} | " + " | ".join(words) + " |", flush=True)


def setting(text: str) -> str:
    """
    :param text: of the command line
    :return: the same
    :raises argparse.ArgumentTypeError: if it is not three names
    """
    if len(list(filter(None, text.split(":")))) != 3:
        raise argparse.ArgumentTypeError(f"{text!r} is no MODE:THRESHOLD:CALIBRATION such as parallel:mse:weights")
    return text


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """
    :param arguments: of the command line; ``None``: those of this process
    :return: the options
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="torchvision:NAME, timm:NAME, package.module:factory or file.py:factory")
    parser.add_argument("--weights", help="a file, or DEFAULT: those that the library downloads")
    parser.add_argument("--icml2025", action="store_true", help="the networks and the T of the paper's table")
    parser.add_argument("--calibration-data", required=True, metavar="DIR")
    parser.add_argument("--test-data", required=True, metavar="DIR")
    parser.add_argument("--images", type=int, default=1024, metavar="N", help="for calibration, a random choice")
    parser.add_argument("--test-images", type=int, metavar="N", help="a random choice (default: all)")
    parser.add_argument("--time-steps", type=int, nargs="+", metavar="T", help="(default: 4 8 16; the paper's)")
    parser.add_argument("--settings", nargs="+", type=setting, default=SETTINGS, metavar="MODE:THRESHOLD:CALIBRATION")
    parser.add_argument("--keep", nargs="+", metavar="NAME", help="modules that stay as they are")
    parser.add_argument("--draws", type=int, default=1, metavar="N", help="of the calibration images, for means")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the first draw; the next has N + 1")
    parser.add_argument("--batch-size", type=int, default=64, metavar="N")
    parser.add_argument("--workers", type=int, default=0, metavar="N", help="processes that read images")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add_image_options(parser)
    args = parser.parse_args(arguments)
    if (args.model is None) != args.icml2025:
        parser.error("give either --model or --icml2025")
    return args


def run(args: argparse.Namespace, model: str, weights: str | None, keep: Sequence[str], steps: Sequence[int]) -> None:
    """
    :param args: the options
    :param model: its name
    :param weights: its weights
    :param keep: modules that stay as they are
    :param steps: the T to try
    """
    trained = load_model(model, ModelOptions(weights))

    def data(folder: str, images: int | None, seed: int, train: bool) -> Iterable:
        loading = DataOptions(images, args.batch_size, args.workers)
        reader = Reader(loading, image_options(args), trained.preparation, seed)
        return (reader.to_calibrate if train else reader.to_evaluate)(folder)

    study = Study(trained.network.to(args.device), data(args.test_data, args.test_images, args.seed, False), keep)
    draws = [list(data(args.calibration_data, args.images, args.seed + i, True)) for i in range(args.draws)]
    print_table(study, trained.name, args.settings, steps, draws)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table of one network, or of the paper's four."""
    args = parse_arguments(arguments)
    if not args.icml2025:
        run(args, args.model, args.weights, args.keep or (), args.time_steps or (4, 8, 16))
        return
    weights, keep = args.weights or "IMAGENET1K_V1", tuple(args.keep or ("relu",))
    for name in ICML_NETWORKS:
        run(args, f"torchvision:{name}", weights, keep, args.time_steps or ICML_TIME_STEPS)


if __name__ == "__main__":
    main()
