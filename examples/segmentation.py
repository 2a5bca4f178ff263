"""Convert torchvision's segmentation models, and compare the masks pixel by pixel.

    python examples/segmentation.py                  # a MobileNetV3, trained for some steps on drawn shapes
    python examples/segmentation.py --model deeplabv3_resnet50 --weights DEFAULT      # torchvision's own weights
    python examples/segmentation.py --model fcn_resnet50 --weights fcn.pth --num-classes 21    # a state dict
    python examples/segmentation.py --all --steps 0  # every model that torchvision has, with random weights
"""

from __future__ import annotations

import argparse

import torch
import torchvision
from helpers.shapes import CLASSES, Scene, scenes
from helpers.torchvision_models import compare, comparison_parser, load, settle_batchnorms
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import trange

MODELS = torchvision.models.list_models(module=torchvision.models.segmentation)


def batch_of(pictures: list[Scene]) -> tuple[Tensor, Tensor]:
    """
    :param pictures: some pictures
    :return: images ``[N, 3, H, W]`` and masks ``[N, H, W]``
    """
    return torch.stack([p.normalised for p in pictures]), torch.stack([p.mask for p in pictures])


def train(ann: nn.Module, size: int, steps: int) -> None:
    """
    :param ann: network, trained in place and left in evaluation mode
    :param size: of the images
    :param steps: batches of 8 drawn images
    """
    optimizer = torch.optim.AdamW(ann.train().parameters(), lr=5e-4)
    for step in trange(steps, desc="training", leave=False):
        images, masks = batch_of(scenes(8, size, seed=1000 + step))
        optimizer.zero_grad()
        F.cross_entropy(ann(images)["out"], masks).backward()
        optimizer.step()
    settle_batchnorms(ann, (batch_of(scenes(8, size, seed=1000 + step))[0] for step in range(4)))


def mean_iou(classes: Tensor, masks: Tensor) -> float:
    """
    :param classes: the classes given ``[N, H, W]``
    :param masks: the true ones
    :return: intersection over union, the mean over the classes that occur
    """
    present = [c for c in range(len(CLASSES)) if (masks == c).any()]
    ious = [((classes == c) & (masks == c)).sum() / ((classes == c) | (masks == c)).sum() for c in present]
    return torch.stack(ious).mean().item()


def run(name: str, args: argparse.Namespace) -> None:
    """
    Load or train one model, convert it, and print how far the masks agree.

    :param name: of torchvision's model
    :param args: the command line
    """
    torch.manual_seed(0)
    ann = load(name, args.weights, args.num_classes)
    if args.steps and args.weights is None:
        train(ann, args.size, args.steps)
    images, masks = batch_of(scenes(args.images, args.size, seed=0))
    loader = [batch_of(scenes(8, args.size, seed=seed)) for seed in range(1, 5)]
    with torch.no_grad():
        expected = ann(images)["out"].argmax(1)

    def score(snn: nn.Module) -> str:
        classes = snn.predict(images)["out"].argmax(1)
        same = (classes == expected).float().mean()
        return (
            f"{100 * same:.2f} % of pixels as in the ANN, mIoU {100 * mean_iou(classes, masks):.1f} "
            f"(ANN {100 * mean_iou(expected, masks):.1f})"
        )

    compare(name, ann, loader, score, args)


def main() -> None:
    """Convert, compare, print."""
    parser = comparison_parser(
        __doc__, MODELS, "lraspp_mobilenet_v3_large", len(CLASSES), steps=300, size=64, images=32
    )
    args = parser.parse_args()
    for name in MODELS if args.all else [args.model]:
        run(name, args)


if __name__ == "__main__":
    main()
