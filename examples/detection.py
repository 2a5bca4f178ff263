"""Convert torchvision's detection models, part by part, and compare the boxes.

    python examples/detection.py                          # ssdlite320_mobilenet_v3_large, random weights
    python examples/detection.py --model fasterrcnn_resnet50_fpn --weights DEFAULT    # torchvision's own weights
    python examples/detection.py --model fasterrcnn_resnet50_fpn --steps 30           # train on drawn shapes first
    python examples/detection.py --model retinanet_resnet50_fpn --weights retina.pth --num-classes 91
    python examples/detection.py --all                    # every model that torchvision has, one line each
"""

from __future__ import annotations

import argparse
import time

import torch
import torchvision
from shapes import CLASSES, scenes
from torch import Tensor, nn
from torchvision.ops import box_iou
from torchvision_models import comparison_parser, load
from tqdm import trange

import sj_parallel_conversion as sjpc

MODELS = torchvision.models.list_models(module=torchvision.models.detection)
Detections = list[dict[str, Tensor]]


def constructor_options(name: str, size: int, trained: bool) -> dict[str, object]:
    """
    :param name: of torchvision's model
    :param size: of the images, which the models scale by themselves
    :param trained: whether scores mean something; else every box counts, of which a few are enough
    :return: options for the model's constructor
    """
    options: dict[str, object] = {} if name.startswith("ssd") else {"min_size": size, "max_size": size}
    if trained:
        return options
    if "rcnn" in name:
        few = {"rpn_pre_nms_top_n_test": 100, "rpn_post_nms_top_n_test": 20}
        return options | few | {"box_score_thresh": 0.0, "box_detections_per_img": 10}
    return options | {"score_thresh": 0.0, "detections_per_img": 10}


def train(ann: nn.Module, size: int, steps: int) -> None:
    """
    :param ann: detector, trained in place and left in evaluation mode
    :param size: of the images
    :param steps: batches of 4 drawn images
    """
    optimizer = torch.optim.AdamW(ann.train().parameters(), lr=2e-4)
    for step in trange(steps, desc="training", leave=False):
        pictures = scenes(4, size, seed=1000 + step)
        losses = ann([p.image for p in pictures], [p.target for p in pictures])
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    ann.eval()


def agreement(expected: Detections, found: Detections) -> tuple[float, float]:
    """
    :param expected: the ANN's boxes, image by image
    :param found: the spiking network's
    :return: of the ANN's boxes, the mean IoU with the best box of the same class, and the share whose best is >= 0.5
    """
    best = []
    for one, other in zip(expected, found, strict=True):
        same_class = one["labels"].unsqueeze(1) == other["labels"].unsqueeze(0)
        iou = box_iou(one["boxes"], other["boxes"]).nan_to_num() * same_class  # boxes may be empty
        best.append(iou.amax(1) if iou.shape[1] else iou.new_zeros(len(iou)))
    best = torch.cat(best)
    return best.mean().item(), (best >= 0.5).float().mean().item()


@torch.no_grad()
def compare(name: str, args: argparse.Namespace) -> None:
    """
    Convert one model at each T, and print a line for each.

    :param name: of torchvision's model
    :param args: the command line
    """
    torch.manual_seed(0)
    options = constructor_options(name, args.size, args.weights is not None)
    ann = load(name, args.weights, args.num_classes, **options)
    if args.steps and args.weights is None:
        with torch.enable_grad():
            train(ann, args.size, args.steps)
    images = [p.image for p in scenes(args.images, args.size, seed=0)]
    loader = [([p.image for p in scenes(args.images, args.size, seed=1)], None)]
    expected = ann(images)
    submodules = args.submodules or sjpc.convertible_submodules(ann)
    for T in args.time_steps:
        start = time.perf_counter()
        converter = sjpc.ParallelConverter(
            loader, time_steps=T, mode=args.mode, calibration=args.calibration,
            spiking_inputs=True, show_progress=False,
        )  # fmt: skip
        snn = converter.convert(ann, submodules=submodules)
        snn.execution = "packed"
        iou, matched = agreement(expected, snn(images))
        report = sjpc.inspect(snn, show=args.inspect)
        boxes = sum(len(e["boxes"]) for e in expected)
        print(
            f"{name:<38} {T:>3} {boxes:>9} {iou:>8.3f} {100 * matched:>10.1f} {len(snn.parts):>5} "
            f"{len(snn.neurons()):>7} {100 * report.share:>6.1f} {time.perf_counter() - start:>7.1f}",
            flush=True,
        )


def main() -> None:
    """Convert, compare, print."""
    parser = comparison_parser(
        __doc__, MODELS, "ssdlite320_mobilenet_v3_large", len(CLASSES), steps=0, size=96, images=2
    )
    parser.add_argument("--submodules", nargs="+", help="what to convert (default: all that can be)")
    args = parser.parse_args()

    header = (
        f"{'model':<38} {'T':>3} {'ANN boxes':>9} {'mean IoU':>8} {'IoU>=.5, %':>10} {'parts':>5} {'neurons':>7} "
        f"{'AC, %':>6} {'seconds':>7}"
    )
    print(f"{header}\n{'-' * len(header)}", flush=True)
    for name in MODELS if args.all else [args.model]:
        compare(name, args)
    print("mean IoU: of each box of the ANN with the spiking network's best box of the same class;")
    print("AC: the share of all multiply-accumulates that became accumulates")


if __name__ == "__main__":
    main()
