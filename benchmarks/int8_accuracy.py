"""What int8 weights cost in accuracy, on a trained CIFAR-10 ResNet.

    python benchmarks/int8_accuracy.py --data-root DIR

DIR as in examples/cifar10_resnet20.py. After any small change, a network with few levels answers some per cent of all
images differently, as often better as worse: on a few hundred test images this noise hides the loss. So each test image
is shown in 18 views (mirrored or not, shifted by 0 or 2 pixels), which are as difficult as test images.

The column int8 says which layers have int8 weights: those that read levels, or all, with calibration data.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from functools import partial

import torch
from helpers.cifar10 import add_model_options, load_images, load_model
from helpers.evaluation import percent
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

import sj_parallel_conversion as sjpc

_SHIFT = 2  # pixels


def parse_arguments() -> argparse.Namespace:
    """
    :return: the command line
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model_options(parser)
    parser.add_argument("--settings", nargs="+", metavar="MODE:T", help="what to convert to",
                        default=["parallel:4", "parallel:8", "parallel:16", "css:4", "css:8"])  # fmt: skip
    parser.add_argument("--calibration", default="weights")
    parser.add_argument("--calibration-images", type=int, default=1024, metavar="N")
    parser.add_argument("--test-images", type=int, metavar="N", help="(default: all)")
    return parser.parse_args()


def views(images: Tensor) -> Iterator[Tensor]:
    """
    :param images: ``[N, C, H, W]``
    :return: the same images, mirrored or not and shifted, one batch for each view
    """
    height, width = images.shape[2:]
    for mirrored in (images, images.flip(3)):
        padded = F.pad(mirrored, [_SHIFT] * 4, mode="replicate")
        for top in (0, _SHIFT, 2 * _SHIFT):
            for left in (0, _SHIFT, 2 * _SHIFT):
                yield padded[:, :, top : top + height, left : left + width]


def classes(predict: Callable[[Tensor], Tensor], images: Tensor, progress: str) -> Tensor:
    """
    :param predict: images to logits
    :param images: ``[N, C, H, W]``
    :param progress: name of the progress bar
    :return: the class of each view of each image, ``[views, N]``
    """
    bar = partial(tqdm, desc=progress, leave=False)
    return torch.stack([torch.cat([predict(x).argmax(1) for x in view.split(100)]) for view in bar(views(images))])


def main() -> None:
    """Print a line for the ANN and for each setting."""
    args = parse_arguments()
    ann = load_model(args)
    images, labels = load_images(args.data_root, "test", args.test_images)
    calibration = list(load_images(args.data_root, "train", args.calibration_images)[0].split(64))
    print(f"{args.model}, ANN {percent(classes(ann, images, 'ANN') == labels):.2f} % of all views")
    names = f"{'float32 %':>10} {'int8 %':>8} {'loss, points':>16} {'same class %':>13}"
    print(f"{'mode':<10} {'T':>3} {'int8':<7} {names}")
    for setting in args.settings:
        mode, T = setting.split(":")
        options = {"threshold": "mse", "calibration": args.calibration, "show_progress": False}
        snn = sjpc.ParallelConverter(calibration, mode=mode, time_steps=int(T), **options).convert(ann)
        snn.execution = "packed"
        float32 = classes(snn.predict, images, setting)
        for name, data in (("levels", None), ("all", calibration)):
            int8 = classes(sjpc.to_int8(snn, data).predict, images, setting)
            # The views of an image are no independent samples, the images are.
            loss = 100 * ((float32 == labels).double() - (int8 == labels).double()).mean(0)
            deviation = f"{loss.mean():.2f} +- {loss.std() / len(loss) ** 0.5:.2f}"
            accuracies = f"{percent(float32 == labels):>10.2f} {percent(int8 == labels):>8.2f}"
            same = percent(float32 == int8)
            print(f"{mode:<10} {T:>3} {name:<7} {accuracies} {deviation:>16} {same:>13.2f}", flush=True)


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
