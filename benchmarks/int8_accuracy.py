"""What int8 weights cost in accuracy.

    python benchmarks/int8_accuracy.py --data-root DIR
    python benchmarks/int8_accuracy.py --model benchmarks/efficientnet_lite.py:lite0 \
        --calibration-data DIR/calibration --test-data DIR/test --image-size 224 --resize-size 256 \
        --interpolation bicubic --mean 0.49804 --std 0.50196 --settings parallel:32 css:8 \
        --calibration least_squares --calibration-images 128 --shift 0

The first is ResNet-20, with DIR as in examples/cifar10_resnet20.py. Other models and data are named as on the command
line of the package.

After any small change, a network with few levels answers some per cent of all images differently, as often better as
worse: on a few hundred test images this noise hides the loss. So each test image is shown in 18 views (mirrored or not,
shifted by 0 or 2 pixels), which are as difficult as test images. With --shift 0 there are two, the mirrored one and the
image itself.

The column int8 says which layers have int8 weights: those that read levels, or all, with calibration data.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from given_images import add_options, check_options, load
from helpers.evaluation import percent
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

import sj_parallel_conversion as sjpc

_BATCH = 100  # images in one call


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """
    :param arguments: of the command line; ``None``: those of this process
    :return: the options
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, calibration_images=1024)
    parser.add_argument("--settings", nargs="+", metavar="MODE:T", help="what to convert to",
                        default=["parallel:4", "parallel:8", "parallel:16", "css:4", "css:8"])  # fmt: skip
    parser.add_argument("--calibration", default="weights")
    parser.add_argument("--test-images", type=int, metavar="N", help="(default: all)")
    parser.add_argument("--shift", type=int, default=2, metavar="N", help="of views, in pixels; 0: mirrored alone")
    args = parser.parse_args(arguments)
    check_options(parser, args)
    return args


def views(images: Tensor, shift: int) -> Iterator[Tensor]:
    """
    :param images: ``[N, C, H, W]``
    :param shift: by how many pixels, up or down, left or right; 0: not at all
    :return: the same images, mirrored or not and shifted, one batch for each view
    """
    height, width = images.shape[2:]
    places = sorted({0, shift, 2 * shift})
    for mirrored in (images, images.flip(3)):
        padded = F.pad(mirrored, [shift] * 4, mode="replicate")
        for top in places:
            for left in places:
                yield padded[:, :, top : top + height, left : left + width]


def classes(predict: Callable[[Tensor], Tensor], shown: Iterator[Tensor], progress: str) -> Tensor:
    """
    :param predict: images to logits
    :param shown: views of all images, each ``[N, C, H, W]``
    :param progress: name of the progress bar
    :return: the class of each view of each image, ``[views, N]``
    """
    bar = tqdm(shown, desc=progress, leave=False)
    return torch.stack([torch.cat([predict(x).argmax(1) for x in view.split(_BATCH)]) for view in bar])


@torch.no_grad()
def main(arguments: Sequence[str] | None = None) -> None:
    """Print a line for the ANN and for each setting."""
    args = parse_arguments(arguments)
    ann, calibration, images, labels = load(args, args.test_images)
    shown = partial(views, images, args.shift)
    print(f"{args.model}, ANN {percent(classes(ann, shown(), 'ANN') == labels):.2f} % of all views", flush=True)
    names = f"{'float32 %':>10} {'int8 %':>8} {'loss, points':>16} {'same class %':>13}"
    print(f"{'mode':<10} {'T':>3} {'int8':<7} {names}")
    for setting in args.settings:
        mode, T = setting.split(":")
        options = {"threshold": "mse", "calibration": args.calibration, "show_progress": False}
        snn = sjpc.ParallelConverter(calibration, mode=mode, time_steps=int(T), **options).convert(ann)
        snn.execution = "packed"
        float32 = classes(snn.predict, shown(), setting)
        for name, data in (("levels", None), ("all", calibration)):
            int8 = classes(sjpc.to_int8(snn, data).predict, shown(), setting)
            # The views of an image are no independent samples, the images are.
            loss = 100 * ((float32 == labels).double() - (int8 == labels).double()).mean(0)
            deviation = f"{loss.mean():.2f} +- {loss.std() / len(loss) ** 0.5:.2f}"
            accuracies = f"{percent(float32 == labels):>10.2f} {percent(int8 == labels):>8.2f}"
            same = percent(float32 == int8)
            print(f"{mode:<10} {T:>3} {name:<7} {accuracies} {deviation:>16} {same:>13.2f}", flush=True)


if __name__ == "__main__":
    main()
