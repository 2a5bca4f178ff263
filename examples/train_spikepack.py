"""Train a spiking CNN from scratch, at several T, and show that T costs nothing.

The task is handwritten digits, or digits that move before an event camera. There, classes differ in the digit, and in
the direction of its movement.

Each T runs in fresh processes, so that its memory can be told; the fastest of a few counts. Nothing is downloaded.

SpikePack at T = 2 and T = 8, or another mode:

    python examples/train_spikepack.py
    python examples/train_spikepack.py --mode css

Through the trains, for comparison:

    python examples/train_spikepack.py --execution spikes

The task of events:

    python examples/train_spikepack.py --task saccades --time-steps 4 8 16 --epochs 6 --repeats 1
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from functools import partial

import torch
from helpers.digits import load_data
from helpers.evaluation import percent
from helpers.saccades import FORMS, LIF, SACCADES, LIFNetwork, PackedNetwork, load_saccades
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from tqdm import trange

import sj_parallel_conversion as sjpc

NODES = {"parallel": sjpc.ParallelConversionNode, "spikepack": sjpc.SpikePackNode, "css": sjpc.TSANode}
V_MAX = 3.0  # what the largest level stands for; BatchNorm keeps the currents in this range


def spiking_activation(mode: str, T: int) -> sjpc.SpikingActivation:
    """
    :param mode: a key of :data:`NODES`
    :param T: number of time-steps
    :return: what stands in the place of a ReLU. Its threshold is fixed: the BatchNorm before it learns the scale
    """
    code = NODES[mode].code
    v_threshold = V_MAX * code.levels_per_threshold(T) / code.max_level(T)
    return sjpc.SpikingActivation(NODES[mode](T, v_threshold).requires_grad_(False), packed=True)


def spiking_cnn(mode: str, T: int) -> nn.Sequential:
    """
    :param mode: a key of :data:`NODES`
    :param T: number of time-steps
    :return: a small CNN for 8x8 images; 10 classes
    """
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), spiking_activation(mode, T), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), spiking_activation(mode, T), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(64 * 2 * 2, 64, bias=False), nn.BatchNorm1d(64), spiking_activation(mode, T),
        nn.Linear(64, 10),
    )  # fmt: skip


def set_execution(net: nn.Module, execution: str) -> None:
    """
    :param net: a network with :class:`~sj_parallel_conversion.SpikingActivation`
    :param execution: ``"spikes"`` or ``"packed"``
    """
    for module in net.modules():
        if isinstance(module, sjpc.SpikingActivation):
            module.packed = execution == "packed"


def train(net: nn.Module, data: TensorDataset, epochs: int) -> float:
    """
    :param net: trained in place and left in evaluation mode
    :param data: images and labels
    :param epochs: passes over the data
    :return: seconds of the fastest epoch, of this process alone: other work on the machine can only slow the rest down
    """
    optimizer = torch.optim.AdamW((p for p in net.parameters() if p.requires_grad), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    fastest = float("inf")
    for _ in trange(epochs, desc="training", leave=False, disable=None):
        start = time.process_time()
        for images, labels in DataLoader(data, batch_size=100, shuffle=True):
            optimizer.zero_grad()
            F.cross_entropy(net(images), labels).backward()
            optimizer.step()
        fastest = min(fastest, time.process_time() - start)
        schedule.step()
    net.eval()
    return fastest


@torch.no_grad()
def evaluate(net: nn.Module, images: Tensor, labels: Tensor) -> dict[str, object]:
    """
    :param net: a trained network
    :param images: test images ``[N, 1, 8, 8]``
    :param labels: ``[N]``
    :return: accuracy in percent, and whether packed values and real trains give the same logits, bit for bit
    """
    set_execution(net, "packed")
    packed = net(images)
    set_execution(net, "spikes")
    return {"accuracy": percent(packed.argmax(1) == labels), "spikes agree": torch.equal(net(images), packed)}


def run(mode: str, T: int, execution: str, epochs: int) -> dict[str, object]:
    """
    :param mode: a key of :data:`NODES`
    :param T: number of time-steps
    :param execution: what passes between the neurons during training
    :param epochs: passes over the data
    :return: what is printed for this T; memory is what training adds to the peak of the process
    """
    torch.manual_seed(0)
    data, images, labels = load_data()
    net = spiking_cnn(mode, T)
    set_execution(net, execution)
    before = peak_megabytes()
    seconds = train(net, data, epochs)
    return {"T": T, "seconds": seconds, "megabytes": peak_megabytes() - before} | evaluate(net, images, labels)


def run_saccades(mode: str, T: int, form: str, epochs: int) -> dict[str, object]:
    """
    :param mode: a key of :data:`NODES`
    :param T: number of frames
    :param form: a key of :data:`~helpers.saccades.FORMS`, or the LIF neurons
    :param epochs: passes over the data
    :return: what is printed for this form and T
    """
    torch.manual_seed(0)
    data, events, labels = load_saccades(T)
    net = LIFNetwork() if form == LIF else PackedNetwork(partial(spiking_activation, mode), T, *FORMS[form])
    before = peak_megabytes()
    seconds = train(net, data, epochs)
    measured = {"form": form, "T": T, "seconds": seconds, "megabytes": peak_megabytes() - before}
    with torch.no_grad():
        classes = torch.cat([net(batch).argmax(1) for batch in events.split(500)])
    n = len(SACCADES)
    return measured | {
        "accuracy": percent(classes == labels),
        "digit": percent(classes // n == labels // n),
        "direction": percent(classes % 2 == labels % 2),
    }


def peak_megabytes() -> float:
    """The most memory that this process has held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def in_fresh_process(args: argparse.Namespace, T: int, form: str = "") -> dict[str, object]:
    """
    :param args: the command line
    :param T: number of time-steps
    :param form: of the task ``"saccades"``
    :return: what :func:`run` or :func:`run_saccades` returns there
    """
    options = ["--task", args.task, "--mode", args.mode, "--execution", args.execution, "--epochs", str(args.epochs)]
    options += ["--form", form]
    command = [sys.executable, __file__, "--worker", "--time-steps", str(T), *options]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def measure(args: argparse.Namespace) -> list[dict[str, object]]:
    """
    :param args: the command line
    :return: for each T (and form) the fastest run and the least memory of ``args.repeats``, which take turns
    """
    forms = [*FORMS, LIF] if args.task == "saccades" else [""]
    settings = [(T, form) for T in args.time_steps for form in forms]
    rounds = [[in_fresh_process(args, *each) for each in settings] for _ in trange(args.repeats, disable=None)]
    return [
        r[0] | {what: min(each[what] for each in r) for what in ("seconds", "megabytes")}
        for r in zip(*rounds, strict=True)
    ]


def main() -> None:
    """Train at each T, print a table, and the ratios of the last T to the first."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=["digits", "saccades"], default="digits")
    parser.add_argument("--mode", choices=NODES, default="spikepack")
    parser.add_argument("--time-steps", type=int, nargs="+", default=[2, 8], metavar="T")
    parser.add_argument("--execution", choices=["packed", "spikes"], default="packed", help="of the task digits")
    parser.add_argument("--epochs", type=int, default=25)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--form", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.task == "saccades" and any(T < 4 or T % 4 for T in args.time_steps):
        parser.error("a saccade has four parts: give --time-steps that are multiples of 4")
    if args.worker:
        of_task = run_saccades if args.task == "saccades" else run
        how = args.form if args.task == "saccades" else args.execution
        print(json.dumps(of_task(args.mode, args.time_steps[0], how, args.epochs)))
    elif args.task == "saccades":
        print_saccades(measure(args))
    else:
        print(f"{args.mode}, training {args.execution}, {args.epochs} epochs")
        print_digits(measure(args))


def print_digits(results: list[dict[str, object]]) -> None:
    """:param results: of :func:`measure`"""
    print(f"{'T':>3} {'accuracy %':>11} {'s / epoch':>10} {'MB added':>9}  spikes give the same logits")
    for r in results:
        same = "yes" if r["spikes agree"] else "NO"
        print(f"{r['T']:>3} {r['accuracy']:>11.2f} {r['seconds']:>10.3f} {r['megabytes']:>9.0f}  {same}")
    first, last = results[0], results[-1]
    for what in ("seconds", "megabytes"):
        print(f"{what}, T={last['T']} / T={first['T']}: {last[what] / first[what]:.2f}")


def print_saccades(results: list[dict[str, object]]) -> None:
    """:param results: of :func:`measure`"""
    print(f"{'T':>3} {'':<22} {'accuracy %':>11} {'digit %':>8} {'direction %':>12} {'s / epoch':>10} {'MB added':>9}")
    for r in results:
        shares = f"{r['accuracy']:>11.2f} {r['digit']:>8.2f} {r['direction']:>12.2f}"
        print(f"{r['T']:>3} {r['form']:<22} {shares} {r['seconds']:>10.3f} {r['megabytes']:>9.0f}")


if __name__ == "__main__":
    main()
