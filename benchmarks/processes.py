"""What several processes bring, and what a stream of data costs in memory.

    python benchmarks/processes.py --data-root DIR
    python benchmarks/processes.py --data-root DIR --stream 1000 20000

DIR as in examples/cifar10_resnet20.py. Each process has one thread, and a share of the same images. One process and
several take turns. ``processor`` is the time that the busiest of the processes computes, which other programs on the
machine do not change much. ``wall`` is the time of a clock. ``sent`` is what a process gives to all reductions.

The second call calibrates with images that a loader makes one after the other, and prints the peak memory.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import statistics
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from helpers.cifar10 import add_model_options, load_images, load_model
from torch import Tensor, distributed, nn

import sj_parallel_conversion as sjpc

MIB = 2**20


class Sent:
    """Counts the reductions of this process, and the bytes that it gives to them."""

    def __init__(self) -> None:
        self.calls = self.bytes = 0
        for name in ("all_reduce", "all_gather"):
            self._count(name)

    def _count(self, name: str) -> None:
        original = getattr(distributed, name)

        def counted(*args: object, **kwargs: object) -> object:
            x = args[0] if name == "all_reduce" else args[1]
            self.calls, self.bytes = self.calls + 1, self.bytes + x.numel() * x.element_size()
            return original(*args, **kwargs)

        for module in (distributed, distributed.distributed_c10d):  # the second is what objects are gathered with
            setattr(module, name, counted)


class Stream:
    """
    Images that are mirrored and shifted, as many as wanted, of which one batch at a time is in memory.

    :param images: ``[N, 3, H, W]``
    :param length: how many images there are in the stream
    """

    def __init__(self, images: Tensor, length: int, batch_size: int = 64) -> None:
        self.images, self.length, self.batch_size = images, length, batch_size

    def __len__(self) -> int:
        return -(-self.length // self.batch_size)

    def __iter__(self) -> Iterator[Tensor]:
        for start in range(0, self.length, self.batch_size):
            numbers = torch.arange(start, min(start + self.batch_size, self.length))
            yield torch.stack([self._image(number) for number in numbers.tolist()])

    def _image(self, number: int) -> Tensor:
        turn, x = number // len(self.images), self.images[number % len(self.images)]
        return torch.roll(x.flip(2) if turn % 2 else x, (turn // 2 % 5, turn // 10 % 5), (1, 2))


def calibrate(args: argparse.Namespace, loader: object, model: nn.Module) -> nn.Module:
    """:return: the spiking network"""
    options = {"time_steps": args.time_steps[0], "calibration": args.calibration, "show_progress": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about calibrations that do no better than others
        return sjpc.ParallelConverter(loader, max_memory=args.max_memory, **options).convert(model)


def converted(rank: int, world: int, args: argparse.Namespace, results: Path) -> None:
    """One of ``world`` processes: write what it has needed, and what its network gives."""
    torch.set_num_threads(1)
    if world > 1:
        store = f"file://{results}/store"
        distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=world)
    model, sent = load_model(args), Sent()
    images = load_images(args.data_root, "train", args.images)[0]
    share = images.chunk(world)[rank]
    start, processor = time.perf_counter(), time.process_time()
    snn = calibrate(args, list(share.split(64)), model)
    found = {
        "wall": time.perf_counter() - start,
        "processor": time.process_time() - processor,
        "sent": sent.bytes,
        "calls": sent.calls,
        "error": error(snn, model, load_images(args.data_root, "test", 256)[0]) if rank == 0 else 0.0,
    }
    torch.save(found, results / str(rank))


@torch.no_grad()
def error(snn: nn.Module, model: nn.Module, images: Tensor) -> float:
    """Of the outputs, squared, relative to their variance."""
    y = model(images)
    return float((snn.predict(images) - y).square().mean() / y.var())


def in_processes(world: int, args: argparse.Namespace) -> dict[str, float]:
    """The most of each figure over the processes of one conversion."""
    with tempfile.TemporaryDirectory() as folder:
        context = multiprocessing.get_context("spawn")
        each = [context.Process(target=converted, args=(r, world, args, Path(folder))) for r in range(world)]
        for process in each:
            process.start()
        for process in each:
            process.join()
        found = [torch.load(Path(folder) / str(rank)) for rank in range(world)]
    return {key: max(figures[key] for figures in found) for key in found[0]}


def compare(args: argparse.Namespace) -> None:
    """Print a line for each number of processes."""
    runs: dict[int, list[dict[str, float]]] = {world: [] for world in (1, *args.processes)}
    for _ in range(args.repeats):
        for world, found in runs.items():
            found.append(in_processes(world, args))
    print("processes  processor, s  ratio  wall, s  ratio  error      sent, MiB  calls")
    base = None
    for world, found in runs.items():
        middle = {key: statistics.median(run[key] for run in found) for key in found[0]}
        base = base or middle
        print(
            f"{world:>9}  {middle['processor']:>12.1f}  {middle['processor'] / base['processor']:>5.2f}"
            f"  {middle['wall']:>7.1f}  {middle['wall'] / base['wall']:>5.2f}  {middle['error']:<9.4g}"
            f"  {middle['sent'] / MIB:>9.2f}  {middle['calls']:>5.0f}",
            flush=True,
        )


def streamed(length: int, args: argparse.Namespace, peak: object) -> None:
    """Put the peak memory of a calibration with so many images, in MiB, into ``peak``."""
    torch.set_num_threads(1)
    images = load_images(args.data_root, "train", 1000)[0]
    calibrate(args, Stream(images, length), load_model(args))
    peak.put(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def stream(args: argparse.Namespace) -> None:
    """Print the peak memory of a fresh process for each number of images."""
    context = multiprocessing.get_context("spawn")
    first = None
    for length in args.stream:
        peak, start = context.SimpleQueue(), time.perf_counter()
        process = context.Process(target=streamed, args=(length, args, peak))
        process.start()
        process.join()
        found = peak.get()
        first = first or found
        print(f"{length:>6} images: peak {found:,.0f} MiB, {found / first:.2f} of the first, "
              f"{time.perf_counter() - start:.0f} s", flush=True)  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model_options(parser)
    parser.add_argument("--images", type=int, default=1024, metavar="N")
    parser.add_argument("--time-steps", type=int, nargs=1, default=[4], metavar="T")
    parser.add_argument("--calibration", default="least_squares")
    parser.add_argument("--processes", type=int, nargs="+", default=[2], metavar="N")
    parser.add_argument("--repeats", type=int, default=3, metavar="N")
    parser.add_argument("--stream", type=int, nargs="+", metavar="N", help="print the peak memory for so many images")
    parser.add_argument("--max-memory", type=float, metavar="GIB", help="of values that are kept in memory")
    args = parser.parse_args(arguments)
    (stream if args.stream else compare)(args)


if __name__ == "__main__":
    main()
