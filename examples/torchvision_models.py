"""Loading torchvision's models: with weights by name, from a file, or none."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import torchvision
from torch import nn


def add_weight_options(parser: argparse.ArgumentParser, num_classes: int) -> None:
    """
    :param parser: gets ``--weights`` and ``--num-classes``
    :param num_classes: its default
    """
    parser.add_argument("--weights", help="file with a state dict, or torchvision's name for weights (DEFAULT)")
    parser.add_argument("--num-classes", type=int, default=num_classes, help="of a model without named weights")


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
