"""What the exports of a network give, and how fast they are, beside the network itself.

    python benchmarks/exports.py --data-root DIR --time-steps 8
    python benchmarks/exports.py --model benchmarks/efficientnet_lite.py:lite0 --calibration-data DIR/calibration \
        --test-data DIR/test --image-size 224 --resize-size 256 --interpolation bicubic --mean 0.49804 --std 0.50196
    python benchmarks/exports.py --model examples/helpers/transformers.py:small_vit --weights vit.pt \
        --model-args '{"size": 32, "patch": 8, "channels": 3}' --calibration-data train.npz --test-data test.npz

The first is ResNet-20, with DIR as in examples/cifar10_resnet20.py. Other models and data are named as on the command
line of the package. The weights of the third are made by examples/transformer.py --task images --weights vit.pt.

Below the table stands a check of the float file, image by image. Does a level differ from the network's on a tie alone?
Is all equal if the network is given the levels of the file?

Times are of one thread and of 16 images, as multiples of the packed network's. It needs onnx, onnxscript and
onnxruntime.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from given_images import add_options, check_options, load
from given_levels import FileWithLevels, NetworkWithLevels, distance_from_ties
from timing import alternating, ratios
from torch import Tensor

import sj_parallel_conversion as sjpc

Function = Callable[[Tensor], np.ndarray]
_BATCH = 16


def onnx_function(path: Path) -> Function:
    """A file as a function, on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    (name,) = (each.name for each in session.get_inputs())
    return lambda x: session.run(None, {name: x.numpy()})[0]


def forms(snn: sjpc.SpikingNetwork, folder: Path) -> dict[str, Function]:
    """:param snn: in packed execution. :param folder: for files. :return: all that can be run, by name"""
    module = sjpc.to_torch(snn)
    sjpc.export_onnx(snn, folder / "float.onnx")
    found = {
        "packed": lambda x: snn.predict(x).numpy(),
        "to_torch": lambda x: module(x).numpy(),
        "export_onnx": onnx_function(folder / "float.onnx"),
    }
    try:
        int8 = sjpc.to_int8(snn)
        sjpc.export_onnx(snn, folder / "integers.onnx", integers=True)
    except sjpc.SJPCError as error:
        print(f"no integers: {error}")
        return found
    return found | {
        "to_int8": lambda x: int8.predict(x).numpy(),
        "export_onnx, integers": onnx_function(folder / "integers.onnx"),
    }


def table(answers: dict[str, np.ndarray], labels: np.ndarray, times: dict[str, float]) -> list[tuple[str, ...]]:
    """
    :param answers: scores of all images, by form; "packed" is one
    :param labels: of the images
    :param times: of each form
    :return: the header and a row for each form
    """
    others = {"accuracy": labels, "class of packed": answers["packed"].argmax(1)}
    if "to_int8" in answers:
        others["class of to_int8"] = answers["to_int8"].argmax(1)
    rows = [("", *(f"{name}, %" for name in others), "within 1e-5, %", "time")]
    for name, y in answers.items():
        same = [100 * (y.argmax(1) == other).mean() for other in others.values()]
        error = np.abs(y - answers["packed"]).max(1) / np.abs(answers["packed"]).max(1)
        rows.append((name, *(f"{c:.2f}" for c in same), f"{100 * (error < 1e-5).mean():.1f}", f"{times[name]:.2f}"))
    return rows


def level_check(snn: sjpc.SpikingNetwork, path: Path, images: Tensor) -> str:
    """
    :param snn: a converted network
    :param path: its file of ``export_onnx``
    :param images: to check, one by one
    :return: in words, what was found
    """
    with tempfile.TemporaryDirectory() as folder:
        file = FileWithLevels(path, Path(folder))
    network, currents, outputs, ties = NetworkWithLevels(snn), [], [], []
    for x in images.split(1):
        (found, *_), levels = file.run(x)
        y, errors = network.given(levels, x)
        currents.append(max(errors))
        outputs.append(np.abs(found - y.numpy()).max() / np.abs(found).max())
        ties.append(distance_from_ties(network.own(x)[1], levels))
    other = [distance for distance in ties if distance is not None]
    return (
        f"{len(images)} images with the levels of the file: currents within {max(currents):.1e}, outputs within "
        f"{max(outputs):.1e}. {len(other)} have a level of their own, the first at most {max(other, default=0):.1e} "
        "from a tie."
    )


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """
    :param arguments: of the command line; ``None``: those of this process
    :return: the options
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, calibration_images=256)
    parser.add_argument("--mode", default="spikepack", choices=("parallel", "spikepack", "css"))
    parser.add_argument("--time-steps", type=int, default=8)
    parser.add_argument("--calibration", default="least_squares")
    parser.add_argument("--images", type=int, default=600, help="how many test images at most")
    parser.add_argument("--check-images", type=int, default=50, metavar="N", help="of these, for the check of levels")
    parser.add_argument("--seconds", type=float, default=20.0, help="how long times are measured")
    args = parser.parse_args(arguments)
    check_options(parser, args)
    return args


@torch.no_grad()
def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table and the check."""
    args = parse_arguments(arguments)
    torch.set_num_threads(1)
    ann, calibration, images, labels = load(args, args.images)
    converter = sjpc.ParallelConverter(
        calibration, mode=args.mode, time_steps=args.time_steps, calibration=args.calibration, shortcut="spikes",
        show_progress=False,
    )  # fmt: skip
    snn = converter.convert(ann)
    snn.execution = "packed"
    with tempfile.TemporaryDirectory() as name:
        functions = forms(snn, Path(name))
        runs = {name: partial(function, images[:_BATCH]) for name, function in functions.items()}
        times = ratios(alternating(runs, args.seconds, "times"))
        answers = {name: np.concatenate([f(x) for x in images.split(_BATCH)]) for name, f in functions.items()}
        header, *rows = table(answers, labels.numpy(), times)
        for row in (header, ["---"] * len(header), *rows):
            print("| " + " | ".join(row) + " |")
        print("\n" + level_check(snn, Path(name) / "float.onnx", images[: args.check_images]))


if __name__ == "__main__":
    main()
