"""What the examples with torchvision's models share: options, weights, the end of a training, the comparison."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable
from itertools import product
from pathlib import Path

import torch
import torchvision
from torch import nn

import sj_parallel_conversion as sjpc


def comparison_parser(
    doc: str, models: list[str], model: str, num_classes: int, *, steps: int, size: int, images: int
) -> argparse.ArgumentParser:
    """
    :param doc: what the script does
    :param models: names of torchvision's models for its task
    :param model: the default
    :param num_classes: default of ``--num-classes``
    :param steps: default of ``--steps``
    :param size: default of ``--size``
    :param images: default of ``--images``
    :return: the options of a script that compares models with their conversions
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=models, default=model)
    parser.add_argument("--all", action="store_true", help="all of torchvision's models")
    parser.add_argument("--weights", help="file with a state dict, or torchvision's name for weights (DEFAULT)")
    parser.add_argument("--num-classes", type=int, default=num_classes, help="of a model without named weights")
    parser.add_argument("--steps", type=int, default=steps, help="training steps, without --weights")
    parser.add_argument("--size", type=int, default=size, help="height and width of the images")
    parser.add_argument("--images", type=int, default=images, help="images to compare on")
    parser.add_argument("--time-steps", type=int, nargs="+", default=[8], metavar="T")
    parser.add_argument("--mode", nargs="+", default=["css", "spikepack"])
    parser.add_argument("--calibration", default="least_squares")
    parser.add_argument("--strict", action="store_true", help="an operation that stays analogue is an error")
    parser.add_argument("--inspect", action="store_true", help="print every layer")
    return parser


def load(name: str, weights: str | None, num_classes: int, **options: object) -> nn.Module:
    """
    :param name: of torchvision's model
    :param weights: a file with its state dict, the name of weights that torchvision has (which it downloads), or
        ``None`` for random ones
    :param num_classes: of a model whose weights are random or in a file
    :param options: for the model's constructor
    :return: the model in evaluation mode
    """
    if weights is not None and not Path(weights).is_file():
        return torchvision.models.get_model(name, weights=weights, **options).eval()
    options = {"weights": None, "weights_backbone": None, "num_classes": num_classes} | options
    if weights is None:
        return torchvision.models.get_model(name, **options).eval()
    state = torch.load(weights, map_location="cpu", weights_only=True)
    if any(key.startswith("aux_classifier") for key in state):
        options["aux_loss"] = True
    model = torchvision.models.get_model(name, **options)
    model.load_state_dict(state)
    return model.eval()


@torch.no_grad()
def settle_batchnorms(model: nn.Module, batches: Iterable) -> None:
    """
    Give BatchNorms the statistics of the trained network. Those gathered in a training of some steps are of networks
    that it has been on the way, and some models take thousands of steps to gather any.

    :param model: after training; left in evaluation mode
    :param batches: what it is called with
    """
    model.eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # the mean over all batches
            module.train()
    for batch in batches:
        model(batch)
    model.eval()


@torch.no_grad()
def compare(
    name: str, ann: nn.Module, loader: Iterable, score: Callable[[nn.Module], str], args: argparse.Namespace,
    submodules: list[str] | None = None,
) -> None:  # fmt: skip
    """
    Convert a model in each mode at each T, and print a line for each.

    :param name: of the model
    :param ann: the model
    :param loader: calibration data
    :param score: says how near a spiking network comes to the ANN
    :param args: the command line
    :param submodules: what to convert; ``None`` for the whole model
    """
    for mode, T in product(args.mode, args.time_steps):
        start = time.perf_counter()
        converter = sjpc.ParallelConverter(
            loader, mode, T, calibration=args.calibration, spiking_inputs=True, strict=args.strict, show_progress=False
        )
        snn = converter.convert(ann, submodules=submodules)
        snn.execution = "packed"
        report = sjpc.inspect(snn, show=args.inspect)
        print(
            f"{name}, {mode}, T={T}: {score(snn)}; {len(snn.neurons())} neuron layers, accumulates: "
            f"{100 * report.share:.1f} % of all, {100 * report.share_after_input:.1f} % after the first layer, "
            f"{len(report.analogue)} analogue operations; {time.perf_counter() - start:.0f} s",
            flush=True,
        )
