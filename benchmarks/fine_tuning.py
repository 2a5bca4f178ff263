"""What ``sjpc.fine_tune`` brings after a calibration, without labels, and what its steps cost.

    python benchmarks/fine_tuning.py --data-root DIR --time-steps 2 4
    python benchmarks/fine_tuning.py --data-root DIR --time-steps 2 8 --cost

DIR as in examples/cifar10_resnet20.py. The second call prints the time and the peak memory of an epoch at each T,
relative to those at the first.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from functools import partial

import torch
from calibration_study import draw, views
from helpers.cifar10 import add_model_options, load_images, load_model
from timing import alternating, peak_memory, ratios
from torch import Tensor, nn
from torch.nn import functional as F
from tuning_epoch import Epoch

import sj_parallel_conversion as sjpc

HELD_OUT = 512


class Augmented:
    """
    Batches of images that are mirrored and shifted by up to four pixels at random, as CIFAR-10's networks are trained.

    :param images: ``[N, 3, H, W]``
    :param batch_size: of the batches
    """

    def __init__(self, images: Tensor, batch_size: int = 32) -> None:
        self.images, self.batch_size = images, batch_size

    def __len__(self) -> int:
        return len(self.images) // self.batch_size

    def __iter__(self) -> Iterator[Tensor]:
        order = torch.randperm(len(self.images))
        for i in range(len(self)):
            x = self.images[order[i * self.batch_size : (i + 1) * self.batch_size]]
            x = torch.where(torch.rand(len(x), 1, 1, 1) < 0.5, x, x.flip(3))
            down, right = torch.randint(9, (2,)).tolist()
            yield F.pad(x, (4, 4, 4, 4))[..., down : down + x.shape[2], right : right + x.shape[3]]


@torch.no_grad()
def accuracy(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """In %."""
    run = network.predict if isinstance(network, sjpc.SpikingNetwork) else network
    classes = torch.cat([run(x).argmax(1) for x in images.split(100)])
    return 100 * float((classes == labels).float().mean())


def tuned(ann: nn.Module, args: argparse.Namespace, T: int) -> str:
    """:return: a row of the table"""
    train, test = load_images(args.data_root, "train"), load_images(args.data_root, "test")
    loader = draw(train, args.images, args.seed, 64)
    converter = sjpc.ParallelConverter(loader, mode=args.mode, time_steps=T, calibration=args.calibration,
                                       show_progress=False)  # fmt: skip
    snn = converter.convert(ann)
    snn.execution = "packed"
    before = [accuracy(snn, *test), accuracy(snn, *views(test))]
    order = torch.randperm(len(train[0]), generator=torch.Generator().manual_seed(args.seed))
    held_out = [train[0][order[:HELD_OUT]]]
    torch.manual_seed(args.seed)
    start, begun = time.process_time(), time.perf_counter()
    options = {"epochs": args.epochs, "learning_rate": args.learning_rate, "held_out": held_out}
    result = sjpc.fine_tune(snn, ann, Augmented(train[0][order[HELD_OUT:]]), **options, show_progress=False)
    seconds = time.process_time() - start, time.perf_counter() - begun
    after = [accuracy(snn, *test), accuracy(snn, *views(test))]
    cells = [T, *(f"{x:.2f}" for x in (*before, *after)), result.best, *(f"{x:.0f}" for x in seconds)]
    return "| " + " | ".join(map(str, cells)) + " |"


def cost(ann: nn.Module, images: Tensor, time_steps: list[int], mode: str, seconds: float = 60.0) -> str:
    """
    :param ann: the reference
    :param images: ``[N, ...]``, of which eight are held out
    :param time_steps: the T to compare; the first is what others are relative to
    :param mode: of the conversions
    :param seconds: how long times are measured
    :return: time and memory of an epoch at each T, as a table in Markdown
    """

    def epoch(T: int) -> Epoch:
        options = {"mode": mode, "time_steps": T, "calibration": "none", "show_progress": False}
        return Epoch(sjpc.ParallelConverter([images[:64]], **options).convert(ann), ann)

    epochs = {f"T={T}": epoch(T) for T in time_steps}
    runs = {name: partial(run, images) for name, run in epochs.items()}
    times = ratios(alternating(runs, seconds, "an epoch"))
    memory = {name: peak_memory(run, images) for name, run in epochs.items()}
    first = next(iter(memory.values()))
    lines = ["| | time | peak memory |", "|---|---:|---:|"]
    return "\n".join([*lines, *(f"| {n} | {times[n]:.3f} | {_ratio(memory[n], first)} |" for n in epochs)])


def _ratio(size: float | None, first: float | None) -> str:
    return f"{size / first:.3f}" if size and first else ""  # not every system tells


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model_options(parser)
    parser.add_argument("--time-steps", type=int, nargs="+", default=[2, 4], metavar="T")
    parser.add_argument("--mode", default="parallel")
    parser.add_argument("--calibration", default="weights")
    parser.add_argument("--images", type=int, default=1024, metavar="N", help="for calibration")
    parser.add_argument("--epochs", type=int, default=25)
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cost", action="store_true", help="measure what a step costs, and nothing else")
    args = parser.parse_args()
    ann = load_model(args)
    if args.cost:
        print(cost(ann, load_images(args.data_root, "train", 264)[0], args.time_steps, args.mode))
        return
    print(f"{args.model}, mode={args.mode}, calibration={args.calibration}, {args.epochs} epochs, no labels")
    print("Accuracy in % on the test images, and on four views of each\n")
    print("| T | calibrated | views | fine-tuned | views | best epoch | process seconds | seconds |")
    print("|" + "---:|" * 8)
    for T in args.time_steps:
        print(tuned(ann, args, T), flush=True)


if __name__ == "__main__":
    main()
