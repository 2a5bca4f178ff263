"""Loading torchvision's models: with weights by name, from a file, or none."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import torchvision
from torch import nn


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
    parser.add_argument("--time-steps", type=int, nargs="+", default=[8, 32], metavar="T")
    parser.add_argument("--mode", default="parallel")
    parser.add_argument("--calibration", default="least_squares")
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
