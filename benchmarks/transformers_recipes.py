"""Accuracy and time of a small vision transformer, converted here and by SpikingJelly's STATransformerRecipe.

    python examples/transformer.py --task images --data-root DIR --weights vit.pt
    python benchmarks/transformers_recipes.py --data-root DIR --weights vit.pt
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable
from pathlib import Path

import torch
from helpers.cifar10 import load_images
from helpers.transformers import small_vit
from spikingjelly.activation_based import ann2snn, functional
from torch import Tensor, nn

import sj_parallel_conversion as sjpc

Predict = Callable[[Tensor], Tensor]


def parse_arguments() -> argparse.Namespace:
    """
    :return: the command line
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True, help="written by examples/transformer.py")
    parser.add_argument("--calibration-images", type=int, default=512, metavar="N")
    parser.add_argument("--test-images", type=int, metavar="N")
    parser.add_argument("--time-steps", type=int, nargs="+", default=[4, 6, 8], metavar="T")
    parser.add_argument("--rival-time-steps", type=int, nargs="+", default=[4, 8, 16], metavar="T")
    parser.add_argument("--threshold-scales", type=float, nargs="+", default=[0.5, 1.0])
    parser.add_argument("--modes", nargs="+", default=["spikepack", "css"])
    parser.add_argument("--repeats", type=int, default=5, help="of the timing")
    return parser.parse_args()


def ours(ann: nn.Module, images: Tensor, mode: str, time_steps: int) -> Predict:
    """:return: a strict conversion, packed"""
    options = {"mode": mode, "time_steps": time_steps, "strict": True, "show_progress": False}
    snn = sjpc.ParallelConverter(images.split(64), **options).convert(ann)
    snn.execution = "packed"
    return snn.predict


def theirs(ann: nn.Module, images: Tensor, scale: float, time_steps: int) -> Predict:
    """:return: SpikingJelly's conversion, with the input at the first step, as in its own example"""
    recipe = ann2snn.STATransformerRecipe(
        dataloader=images.split(64), time_steps=time_steps, mode="spiking_encoder", threshold_scale=scale
    )
    snn = ann2snn.Converter(recipe=recipe, device="cpu").convert(copy.deepcopy(ann)).eval()
    functional.set_step_mode(snn, "m")

    def predict(x: Tensor) -> Tensor:
        functional.reset_net(snn)
        x_seq = torch.zeros(time_steps, *x.shape)
        x_seq[0] = x
        return snn(x_seq).sum(0)

    return predict


@torch.no_grad()
def main() -> None:
    """
    Measure all networks on four views of the test images, in one process. Each time is the processor's for
    the quickest call, which other work hardly changes.
    """
    args = parse_arguments()
    ann = small_vit(32, 8, 3)
    ann.load_state_dict(torch.load(args.weights, weights_only=True))
    ann.eval()
    calibration = load_images(args.data_root, "train", args.calibration_images)[0]
    images, labels = load_images(args.data_root, "test", args.test_images)
    images = torch.cat([images, images.flip(3), images.roll(2, 3), images.roll(-2, 3)])
    labels = labels.repeat(4)
    networks: dict[str, Predict] = {"ANN": ann}
    for mode in args.modes:
        networks |= {f"{mode}, T={t}": ours(ann, calibration, mode, t) for t in args.time_steps}
    for scale in args.threshold_scales:
        networks |= {f"STA, x{scale}, T={t}": theirs(ann, calibration, scale, t) for t in args.rival_time_steps}
    expected = ann(images).argmax(1)
    seconds = dict.fromkeys(networks, float("inf"))
    for _ in range(args.repeats):  # in turns, so that other work on the machine meets all of them
        for name, predict in networks.items():
            start = time.process_time()
            predict(images[:100])
            seconds[name] = min(seconds[name], time.process_time() - start)
    for name, predict in networks.items():
        classes = torch.cat([predict(batch) for batch in images.split(100)]).argmax(1)
        right, same = (100 * (classes == other).double().mean() for other in (labels, expected))
        factor = seconds[name] / seconds["ANN"]
        print(f"{name:<16} accuracy {right:6.2f} %, the ANN's class {same:6.2f} %, time {factor:6.2f} x ANN")


if __name__ == "__main__":
    main()
