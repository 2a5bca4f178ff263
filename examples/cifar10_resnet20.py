"""Convert a trained CIFAR-10 ResNet, and classify the test images with spikes.

With a folder that holds cifar10/{train,test}.npz and weights/{resnet20,resnet32}_cifar10.pt:

    python examples/cifar10_resnet20.py --data-root DIR

With torchvision's CIFAR-10, and weights from github.com/akamaster/pytorch_resnet_cifar10:

    python examples/cifar10_resnet20.py --data-root DIR --weights resnet20.th
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from helpers.cifar10 import add_model_options, load_images, load_model
from helpers.evaluation import Evaluation, table
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from tqdm import tqdm

import sj_parallel_conversion as sjpc


def parse_arguments() -> argparse.Namespace:
    """
    :return: the command line
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model_options(parser)
    parser.add_argument("--time-steps", type=int, nargs="+", default=[4, 8, 16, 32], metavar="T")
    parser.add_argument("--mode", default="parallel")
    parser.add_argument("--threshold", default="max")
    parser.add_argument("--calibration", default="da_qcfs")
    parser.add_argument("--execution", nargs="+", default=["spikes", "packed"], help="how to run the spiking network")
    parser.add_argument("--calibration-images", type=int, default=4096, metavar="N")
    parser.add_argument("--calibration-batch-size", type=int, default=32, metavar="N")
    parser.add_argument("--test-images", type=int, metavar="N", help="(default: all)")
    parser.add_argument("--batch-size", type=int, default=100, metavar="N")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args()


def make_converter(args: argparse.Namespace) -> Callable[[nn.Module, int], nn.Module]:
    """
    :param args: the command line
    :return: a function of the ANN and T that gives the spiking network
    """
    images, labels = load_images(args.data_root, "train", args.calibration_images)
    loader = DataLoader(TensorDataset(images, labels), args.calibration_batch_size)

    def convert(ann: nn.Module, time_steps: int) -> nn.Module:
        flags = {"mode": args.mode, "threshold": args.threshold, "calibration": args.calibration}
        return sjpc.ParallelConverter(loader, time_steps=time_steps, device=args.device, **flags).convert(ann)

    return convert


def main() -> None:
    """Evaluate the ANN, then for each T convert it and evaluate the spiking network."""
    args = parse_arguments()
    ann = load_model(args).to(args.device)
    images, labels = (x.to(args.device) for x in load_images(args.data_root, "test", args.test_images))
    evaluation = Evaluation(images, labels, ann, args.batch_size)
    convert = make_converter(args)

    results = [evaluation.measure(f"ANN {args.model}", None, ann)]
    for time_steps in tqdm(args.time_steps, desc="time-steps"):
        snn = convert(ann, time_steps)
        for snn.execution in args.execution:
            results.append(evaluation.measure(f"SNN {args.mode}, {snn.execution}", time_steps, snn.predict))
    print(f"{len(labels)} test images, threshold={args.threshold}, calibration={args.calibration}, {args.device}")
    print(table(results))


if __name__ == "__main__":
    main()
