"""Compare the three codes on a trained CIFAR-10 ResNet at equal T: accuracy, and spikes per activation.

    python benchmarks/weighted_codes.py --data-root DIR

DIR as in examples/cifar10_resnet20.py. A conversion with calibration="weights" takes about a minute on one core.
"""

from __future__ import annotations

import argparse

import torch
from helpers.cifar10 import add_mode_options, add_model_options, load_images, load_model
from helpers.evaluation import Evaluation, digits_per_activation, percent
from torch import Tensor, nn

import sj_parallel_conversion as sjpc


def parse_arguments() -> argparse.Namespace:
    """
    :return: the command line
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model_options(parser)
    add_mode_options(parser)
    parser.add_argument("--time-steps", type=int, nargs="+", default=[2, 3, 4, 6, 8], metavar="T")
    parser.add_argument("--threshold", default="mse")
    parser.add_argument("--calibration", default="weights")
    parser.add_argument("--input-encoding", choices=["analogue", "spikes"], default="analogue")
    parser.add_argument("--filled-levels", type=float, default=1.0, metavar="SHARE")
    parser.add_argument("--serial", action="store_true", help="also run CSS serially, digit by digit (slow)")
    parser.add_argument("--calibration-images", type=int, default=1024, metavar="N")
    return parser.parse_args()


def serial_agreement(snn: sjpc.SpikingNetwork, evaluation: Evaluation) -> float:
    """
    :param snn: a network of a weighted code
    :param evaluation: test data
    :return: in percent, images to which serial neurons give the class that the closed form gives
    """
    closed, _ = evaluation.classes(snn.predict)
    snn.execution = "serial"
    serial, _ = evaluation.classes(snn.predict)
    snn.execution = "spikes"
    return percent(closed == serial)


def measure(
    ann: nn.Module, mode: str, T: int, args: argparse.Namespace, calibration: list[Tensor], evaluation: Evaluation
) -> str:
    """
    :param ann: the trained network
    :param mode: the code
    :param T: number of time-steps
    :param args: the command line
    :param calibration: batches of training images
    :param evaluation: test data
    :return: a line of the table
    """
    flags = {"threshold": args.threshold, "calibration": args.calibration, "input_encoding": args.input_encoding}
    flags["filled_levels"] = args.filled_levels
    snn = sjpc.ParallelConverter(calibration, mode=mode, time_steps=T, show_progress=False, **flags).convert(ann)
    result = evaluation.measure(mode, T, snn.predict)
    digits = digits_per_activation(snn, evaluation.images)
    line = f"{mode:<10} {T:>3} {result.accuracy:>11.2f} {result.agreement:>12.2f} {digits:>10.3f}"
    return f"{line} {serial_agreement(snn, evaluation):>9.2f}" if args.serial and mode == "css" else line


def main() -> None:
    """Convert for each code and T, and print a line for each."""
    args = parse_arguments()
    ann = load_model(args)
    images, labels = load_images(args.data_root, "test", args.test_images)
    calibration = list(load_images(args.data_root, "train", args.calibration_images)[0].split(32))
    evaluation = Evaluation(images, labels, ann)
    accuracy = evaluation.measure("ANN", None, ann).accuracy
    print(f"{args.model}, ANN {accuracy:.2f} %, {len(labels)} test images, {args.calibration_images} for calibration")
    print(f"threshold={args.threshold}, calibration={args.calibration}, input_encoding={args.input_encoding}")
    print(f"filled_levels={args.filled_levels}")
    print(f"{'mode':<10} {'T':>3} {'accuracy %':>11} {'agreement %':>12} {'digits':>10} {'serial %':>9}")
    for T in args.time_steps:
        for mode in args.modes:
            print(measure(ann, mode, T, args, calibration, evaluation), flush=True)
    print("digits: spikes per activation in the whole window, over all neurons and test images")


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
