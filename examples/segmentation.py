"""Convert torchvision's segmentation models, and compare the masks pixel by pixel.

    python examples/segmentation.py                          # fcn_resnet50, trained for some steps on drawn shapes
    python examples/segmentation.py --model deeplabv3_resnet50 --weights DEFAULT      # torchvision's own weights
    python examples/segmentation.py --weights fcn.pth --num-classes 21                # a state dict
    python examples/segmentation.py --all --steps 0          # every model that torchvision has, one line each
"""

from __future__ import annotations

import argparse
import time

import torch
import torchvision
from shapes import CLASSES, Scene, scenes
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision_models import comparison_parser, load
from tqdm import trange

import sj_parallel_conversion as sjpc

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
    ann.eval()


def mean_iou(classes: Tensor, masks: Tensor) -> float:
    """
    :param classes: the classes given ``[N, H, W]``
    :param masks: the true ones
    :return: intersection over union, the mean over the classes that occur
    """
    present = [c for c in range(len(CLASSES)) if (masks == c).any()]
    ious = [((classes == c) & (masks == c)).sum() / ((classes == c) | (masks == c)).sum() for c in present]
    return torch.stack(ious).mean().item()


@torch.no_grad()
def compare(name: str, args: argparse.Namespace) -> None:
    """
    Convert one model at each T, and print a line for each.

    :param name: of torchvision's model
    :param args: the command line
    """
    torch.manual_seed(0)
    ann = load(name, args.weights, args.num_classes)
    if args.steps and args.weights is None:
        with torch.enable_grad():
            train(ann, args.size, args.steps)
    images, masks = batch_of(scenes(args.images, args.size, seed=0))
    loader = [batch_of(scenes(8, args.size, seed=seed)) for seed in (1, 2)]
    expected = ann(images)["out"].argmax(1)
    for T in args.time_steps:
        start = time.perf_counter()
        converter = sjpc.ParallelConverter(
            loader, time_steps=T, mode=args.mode, calibration=args.calibration,
            spiking_inputs=True, strict=args.strict, show_progress=False,
        )  # fmt: skip
        snn = converter.convert(ann)
        classes = snn.predict(images)["out"].argmax(1)
        report = sjpc.inspect(snn, show=args.inspect)
        print(
            f"{name:<28} {T:>3} {100 * (classes == expected).float().mean():>12.2f} "
            f"{100 * mean_iou(expected, masks):>9.1f} {100 * mean_iou(classes, masks):>9.1f} "
            f"{len(snn.neurons()):>7} {100 * report.share_after_input:>9.1f} {len(report.analogue):>8} "
            f"{time.perf_counter() - start:>7.1f}",
            flush=True,
        )


def main() -> None:
    """Convert, compare, print."""
    parser = comparison_parser(
        __doc__, MODELS, "fcn_resnet50", len(CLASSES), steps=25, size=64, images=8
    )
    parser.add_argument("--strict", action="store_true", help="an operation that stays analogue is an error")
    args = parser.parse_args()

    header = (
        f"{'model':<28} {'T':>3} {'agreement, %':>12} {'ANN mIoU':>9} {'SNN mIoU':>9} {'neurons':>7} "
        f"{'AC, %':>9} {'analogue':>8} {'seconds':>7}"
    )
    print(f"{header}\n{'-' * len(header)}", flush=True)
    for name in MODELS if args.all else [args.model]:
        compare(name, args)
    print("agreement: pixels with the class that the ANN gives them; AC: the share of the multiply-accumulates after")
    print("the first layer that became accumulates; analogue: operations that stay so")


if __name__ == "__main__":
    main()
