"""Convert torchvision's detection models, part by part, and compare the boxes.

    python examples/detection.py                     # SSDlite, trained for some steps on drawn shapes
    python examples/detection.py --model fasterrcnn_resnet50_fpn --weights DEFAULT    # torchvision's own weights
    python examples/detection.py --model retinanet_resnet50_fpn --weights retina.pth --num-classes 91   # a state dict
    python examples/detection.py --all --steps 0     # every model that torchvision has, with random weights
"""

from __future__ import annotations

import argparse

import torch
import torchvision
from helpers.shapes import CLASSES, scenes
from helpers.torchvision_models import compare, comparison_parser, load, settle_batchnorms
from torch import Tensor, nn
from torchvision.ops import box_iou
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
        return options | {"box_score_thresh" if "rcnn" in name else "score_thresh": 0.5}
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
    optimizer = torch.optim.AdamW(ann.train().parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-3, total_steps=steps)
    for step in trange(steps, desc="training", leave=False):
        pictures = scenes(4, size, seed=1000 + step)
        losses = ann([p.image for p in pictures], [p.target for p in pictures])
        optimizer.zero_grad()
        sum(losses.values()).backward()
        nn.utils.clip_grad_norm_(ann.parameters(), 10.0)
        optimizer.step()
        schedule.step()
    settle_batchnorms(ann, ([p.image for p in scenes(8, size, seed=1000 + step)] for step in range(4)))


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


def run(name: str, args: argparse.Namespace) -> None:
    """
    Load or train one model, convert it, and print how far the boxes agree.

    :param name: of torchvision's model
    :param args: the command line
    """
    torch.manual_seed(0)
    trained = args.weights is not None or args.steps > 0
    ann = load(name, args.weights, args.num_classes, **constructor_options(name, args.size, trained))
    if args.steps and args.weights is None:
        train(ann, args.size, args.steps)
    pictures = scenes(args.images, args.size, seed=0)
    images, truth = [p.image for p in pictures], [p.target for p in pictures]
    loader = [([p.image for p in scenes(8, args.size, seed=1)], None)]
    with torch.no_grad():
        expected = ann(images)
    boxes = sum(len(one["boxes"]) for one in expected)

    def score(snn: nn.Module) -> str:
        found = snn(images)
        iou, matched = agreement(expected, found)
        return (
            f"mean IoU {iou:.3f} with the ANN's {boxes} boxes, {100 * matched:.1f} % of them found; with the true ones "
            f"{agreement(truth, found)[0]:.3f} (ANN {agreement(truth, expected)[0]:.3f}); {len(snn.parts)} parts"
        )

    compare(name, ann, loader, score, args, args.submodules or sjpc.convertible_submodules(ann, loader))


def main() -> None:
    """Convert, compare, print."""
    parser = comparison_parser(
        __doc__, MODELS, "ssdlite320_mobilenet_v3_large", len(CLASSES), steps=100, size=96, images=16
    )
    parser.add_argument("--submodules", nargs="+", help="what to convert (default: all that can be)")
    args = parser.parse_args()
    for name in MODELS if args.all else [args.model]:
        run(name, args)


if __name__ == "__main__":
    main()
