"""What the exports of a network give, and how fast they are, beside the network itself.

    python benchmarks/exports.py --data-root DIR --time-steps 8

DIR as in examples/cifar10_resnet20.py. Times are of one thread and of 16 images, as multiples of the packed network's.
It needs onnx, onnxscript and onnxruntime.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from helpers.cifar10 import add_model_options, load_images, load_model
from timing import alternating, ratios
from torch import Tensor

import sj_parallel_conversion as sjpc

Function = Callable[[Tensor], np.ndarray]


def onnx_function(path: Path) -> Function:
    """A file as a function, on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    (name,) = (each.name for each in session.get_inputs())
    return lambda x: session.run(None, {name: x.numpy()})[0]


def forms(snn: sjpc.SpikingNetwork, folder: Path) -> dict[str, Function]:
    """:param snn: in packed execution. :param folder: for files. :return: all that can be run, by name"""
    sjpc.export_onnx(snn, folder / "float.onnx")
    sjpc.export_onnx(snn, folder / "integers.onnx", integers=True)
    module, int8 = sjpc.to_torch(snn), sjpc.to_int8(snn)
    return {
        "packed": lambda x: snn.predict(x).numpy(),
        "to_torch": lambda x: module(x).numpy(),
        "export_onnx": onnx_function(folder / "float.onnx"),
        "to_int8": lambda x: int8.predict(x).numpy(),
        "export_onnx, integers": onnx_function(folder / "integers.onnx"),
    }


@torch.no_grad()
def main(argv: list[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_model_options(parser)
    parser.add_argument("--mode", default="spikepack", choices=("parallel", "spikepack", "css"))
    parser.add_argument("--time-steps", type=int, default=8)
    parser.add_argument("--images", type=int, default=600, help="how many test images")
    parser.add_argument("--seconds", type=float, default=20.0, help="how long times are measured")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    calibration, (images, labels) = load_images(args.data_root, "train", 256)[0], load_images(args.data_root, "test")
    images, labels = images[: args.images], labels[: args.images].numpy()
    converter = sjpc.ParallelConverter(
        list(calibration.split(64)), mode=args.mode, time_steps=args.time_steps, calibration="least_squares",
        shortcut="spikes", show_progress=False,
    )  # fmt: skip
    snn = converter.convert(load_model(args))
    snn.execution = "packed"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        functions = forms(snn, folder)
        runs = {name: partial(function, images[:16]) for name, function in functions.items()}
        times = ratios(alternating(runs, args.seconds, "times"))
        answers = {name: np.concatenate([f(x) for x in images.split(100)]) for name, f in functions.items()}
    rows = []
    for name, y in answers.items():
        classes = [100 * (y.argmax(1) == other).mean() for other in (
            labels, answers["packed"].argmax(1), answers["to_int8"].argmax(1))]  # fmt: skip
        error = np.abs(y - answers["packed"]).max(1) / np.abs(answers["packed"]).max(1)
        rows.append((name, *(f"{c:.2f}" for c in classes), f"{100 * (error < 1e-5).mean():.1f}", f"{times[name]:.2f}"))
    header = ("", "accuracy, %", "class of packed, %", "class of to_int8, %", "within 1e-5, %", "time")
    for row in (header, ["---"] * len(header), *rows):
        print("| " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()
