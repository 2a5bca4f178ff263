"""
Memory bandwidth of the CuPy backend's kernels, against that of a copy on the same GPU.

    python benchmarks/kernel_bandwidth.py --megabytes 256

Counted are the bytes that have to move: the currents once (a static input has one step), the output once.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from torch import Tensor

import sj_parallel_conversion as sjpc
from sj_parallel_conversion.neuron import SpikingNode

NODES = (sjpc.ParallelConversionNode, sjpc.SpikePackNode, sjpc.TSANode)
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
STEPS = (1, 4, 8, 16)
GOAL = 0.8


def milliseconds(run: Callable[[], object], batches: int = 5, repetitions: int = 20) -> float:
    """The time of one ``run`` on the GPU: the median of some batches, the first of which compiles and warms up."""
    times = []
    for _ in range(1 + batches):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        for _ in range(repetitions):  # queued without waiting, so that the GPU, not Python, sets the pace
            run()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / repetitions)
    return sorted(times[1:])[batches // 2]


def copy_bandwidth(megabytes: int) -> float:
    """Bytes a millisecond, read and written, of a copy from device to device."""
    source = torch.empty(megabytes * 2**20, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.nbytes / milliseconds(lambda: target.copy_(source))


def workloads(node: SpikingNode, x: Tensor) -> dict[str, tuple[Callable[[], Tensor], int]]:
    """What is timed, by name, and the bytes of its input; ``x`` ``[N, C, H, W]``."""
    static = x.expand(node.T, *x.shape)
    # As much memory as the static input's output, so that all fit the same GPU.
    x_seq = x[: max(1, len(x) // node.T)].repeat(node.T, 1, 1, 1, 1)
    return {
        "static -> train": (lambda: node(static), x.nbytes),
        "currents -> train": (lambda: node(x_seq), x_seq.nbytes),
        "mean -> value": (lambda: node.decoded(x), x.nbytes),
    }


@torch.no_grad()
def main() -> None:
    """Time the kernel, and print what it moves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=256, help="size of one step of the currents")
    parser.add_argument("--channels", type=int, default=64, help="each with its own threshold")
    options = parser.parse_args()

    sjpc.ParallelConversionNode(1, backend="cupy")  # says what is missing, if anything is
    copy = copy_bandwidth(options.megabytes)
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}: a copy moves {copy / 1e6:.0f} GB/s")
    print(f"{'node':24} {'dtype':10} {'T':>3}  {'kernel':18} {'GB/s':>6} {'of a copy':>10}")
    below = 0
    for node_type in NODES:
        for dtype in DTYPES:
            images = options.megabytes * 2**20 // (options.channels * 32 * 32 * dtype.itemsize)
            x = torch.randn(images, options.channels, 32, 32, device="cuda", dtype=dtype)
            theta = torch.rand(options.channels) + 0.5
            for T in STEPS:
                node = node_type(T, theta, backend="cupy").cuda()
                for name, (run, read) in workloads(node, x).items():
                    moved = read + run().nbytes
                    share = moved / milliseconds(run) / copy
                    below += share < GOAL
                    row = f"{node_type.__name__:24} {str(dtype).removeprefix('torch.'):10} {T:3}  {name:18}"
                    print(f"{row} {share * copy / 1e6:6.0f} {share:10.0%}{'' if share >= GOAL else '  below the goal'}")
    print(f"{below} rows below the goal of {GOAL:.0%}")


if __name__ == "__main__":
    main()
