"""Runs a network that ``sjpc.export_integers`` has written, with NumPy alone.

    python examples/run_integers.py FOLDER IMAGES.npy

IMAGES.npy has an input ``[N, ...]`` as the network takes it. The classes are printed. This is a reference for other
implementations, and not a fast one. All arithmetic after the first neurons is on integers.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view


def windows(x, size, stride, dilation=(1, 1)):
    """``[N, C, H, W]`` -> ``[N, C, H', W', size[0], size[1]]``."""
    span = [(k - 1) * d + 1 for k, d in zip(size, dilation, strict=True)]
    parts = sliding_window_view(x, span, (2, 3))
    return parts[:, :, :: stride[0], :: stride[1], :: dilation[0], :: dilation[1]]


def bordered(x, padding, value=0):
    """``x`` with a border of ``value`` around each map."""
    return np.pad(x, [(0, 0), (0, 0), *((p, p) for p in padding)], constant_values=value)


def conv(x, weight, bias, stride, padding, dilation, groups):
    """The currents of a convolution."""
    parts = np.split(windows(bordered(x, padding), weight.shape[2:], stride, dilation), groups, 1)
    weights = np.split(weight.astype(x.dtype), groups)
    sums = [np.tensordot(p, w, ((1, 4, 5), (1, 2, 3))) for p, w in zip(parts, weights, strict=True)]
    return np.moveaxis(np.concatenate(sums, -1) + bias, -1, 1)


def linear(x, weight, bias):
    """The currents of a linear layer."""
    return x @ weight.astype(x.dtype).T + bias


def neuron(x, lowest, highest, threshold=1):
    """The level: how often the threshold fits into the current."""
    return np.clip(np.floor_divide(x, threshold), lowest, highest).astype(np.int32)


def encode(x, gain, offset, lowest, highest):
    """The level of a graded input."""
    return np.clip(np.floor(x * gain + offset), lowest, highest).astype(np.int32)


def add(x, y, factor=1, shift=0):
    """A current and another one, or a current and the levels of a shortcut."""
    return x + ((y * factor + (1 << shift >> 1)) >> shift)


def max_pool(x, kernel_size, stride, padding):
    """The largest value of each window."""
    lowest = np.iinfo(x.dtype).min if x.dtype.kind == "i" else -np.inf
    return windows(bordered(x, padding, lowest), kernel_size, stride).max((4, 5))


OPERATIONS = {
    "conv": conv, "linear": linear, "neuron": neuron, "encode": encode, "add": add, "max_pool": max_pool,
    "sum_pool": lambda x, kernel_size, stride: windows(x, kernel_size, stride).sum((4, 5), x.dtype),
    "sum": lambda x, axes, keepdims: x.sum(tuple(axes), x.dtype, keepdims=keepdims),
    "concatenate": lambda *x, axis: np.concatenate(x, axis),
    "flatten": lambda x: x.reshape(len(x), -1),
    "slice": lambda x, axis, start, stop, step: x[(slice(None),) * axis + (slice(start, stop, step),)],
    "pad": lambda x, widths: np.pad(x, widths),
}  # fmt: skip


def run(folder: str | Path, **inputs: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """
    :param folder: of ``export_integers``
    :param inputs: float arrays ``[N, ...]`` by the names of the network's inputs
    :return: all values by name, and the outputs ``[N, ...]`` by name
    """
    network = json.loads((Path(folder) / "network.json").read_text())
    arrays = np.load(Path(folder) / "network.npz")
    values = {value: np.asarray(inputs[name], np.float32) for name, value in network["inputs"].items()}
    for step in network["steps"]:
        tensors = {name: arrays[key] for name, key in step["arrays"].items()}
        read = [values[name] for name in step["inputs"]]
        values[step["output"]] = OPERATIONS[step["op"]](*read, **tensors, **step["settings"])
    return values, {name: values[out["value"]] * out["scale"] for name, out in network["outputs"].items()}


def main(argv: list[str] | None = None) -> None:
    """Print the classes of images."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="of sjpc.export_integers")
    parser.add_argument("images", type=Path, help=".npy file with an input [N, ...]")
    args = parser.parse_args(argv)
    (name,) = json.loads((args.folder / "network.json").read_text())["inputs"]
    _, outputs = run(args.folder, **{name: np.load(args.images)})
    print(*next(iter(outputs.values())).argmax(1))


if __name__ == "__main__":
    main()
