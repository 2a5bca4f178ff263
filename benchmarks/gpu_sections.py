"""What ``gpu.py`` measures, a function a section of its table."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

import torch
from helpers.rate_coding import rate_coded, rate_coded_multi_step, settings
from spikingjelly.activation_based import ann2snn, functional, neuron
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, ResNet, resnet50

import sj_parallel_conversion as sjpc
from sj_parallel_conversion.neuron import SpikingNode

ROOT = Path(__file__).resolve().parents[1]
NODES = (sjpc.ParallelConversionNode, sjpc.SpikePackNode, sjpc.TSANode)
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
IMPLEMENTATION = "SJ_IF_CUDA_IMPLEMENTATION"  # read by SpikingJelly 2.0.0 when it is imported
RIVALS = ("torch", "triton", "cuda")


@dataclass(frozen=True)
class Line:
    """
    :param section: of the table
    :param what: was measured
    :param value: in ``unit``; ``None`` if it failed
    :param unit: of the value
    :param ratio: to what the section compares with
    :param note: why there is no value
    """

    section: str
    what: str
    value: float | None
    unit: str = "ms"
    ratio: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Sizes:
    """
    :param device: where everything runs
    :param make: the network
    :param image: height and width of its input
    :param batches: images in a batch
    :param steps: the T of spikes
    :param rival_steps: T beside SpikingJelly
    :param node: shape of one step of the nodes' currents
    :param node_steps: their T
    :param megabytes: one step of the kernels' currents
    :param seconds: of each measurement
    """

    device: str = "cuda"
    make: Callable[[], nn.Module] = resnet50
    image: int = 224
    batches: tuple[int, ...] = (1, 64)
    steps: tuple[int, ...] = (4, 16, 64)
    rival_steps: int = 16
    node: tuple[int, ...] = (64, 64, 32, 32)
    node_steps: tuple[int, ...] = (4, 16, 32, 64)
    megabytes: int = 256
    seconds: float = 0.5


def tiny() -> Sizes:
    """Sizes for which a CPU is enough."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    make = partial(ResNet, BasicBlock, [1, 1, 1, 1], num_classes=4)
    return Sizes(device, make, 32, (2,), (4,), 2, (2, 4, 4, 4), (4,), 1, 0.0)


def milliseconds(run: Callable[[], object], sizes: Sizes) -> float:
    """The time of one ``run``: a median of batches, after two that compile and warm up; of one call each on a CPU."""
    on_gpu = sizes.device == "cuda"
    for _ in range(2):
        run()
    times, calls, end = [], 1, time.perf_counter() + sizes.seconds
    while len(times) < 3 or time.perf_counter() < end:
        if not on_gpu:
            start = time.perf_counter()
            run()
            times.append(1000 * (time.perf_counter() - start))
            continue
        first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        first.record()
        for _ in range(calls):  # queued without waiting, so that the GPU, not Python, sets the pace
            run()
        last.record()
        last.synchronize()
        times.append(first.elapsed_time(last) / calls)
        calls = max(1, min(20, round(20 / max(times[-1], 0.01))))
    return median(times)


def measured(section: str, runs: dict[str, Callable[[], Callable[[], object]]], sizes: Sizes) -> Iterator[Line]:
    """Each of ``runs`` is a function that prepares what is timed; the first is what the others are compared with."""
    base = None
    for what, prepare in runs.items():
        try:
            value = milliseconds(prepare(), sizes)
        except Exception as error:
            reason = str(error).splitlines() or [""]
            yield Line(section, what, None, note=f"{type(error).__name__}: {reason[0]}")
            continue
        base = value if base is None else base
        yield Line(section, what, value, ratio=value / base)


def gpu_tests(sizes: Sizes) -> Iterator[Line]:
    """The tests that need a GPU."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu and not slow", "tests/kernels", "tests/files"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    last = (done.stdout.strip().splitlines() or [done.stderr.strip()[-200:]])[-1]
    yield Line("GPU tests", "pytest -m gpu tests/kernels tests/files", time.perf_counter() - start, "s", note=last)


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
def kernels(sizes: Sizes) -> Iterator[Line]:
    """GB/s of each kernel; the ratio is to a copy from device to device."""
    size, backend = sizes.megabytes * 2**20, "cupy" if sizes.device == "cuda" else "torch"
    source = torch.empty(size, dtype=torch.uint8, device=sizes.device)
    copied = 2 * size / milliseconds(source.clone, sizes)  # bytes a millisecond, read and written
    yield Line("kernels", "copy", copied / 1e6, "GB/s", 1.0)
    for node_type, dtype in ((node_type, dtype) for dtype in DTYPES for node_type in NODES):
        x = torch.randn(size // (64 * 32 * 32 * dtype.itemsize), 64, 32, 32, device=sizes.device, dtype=dtype)
        for T in (4, 16):
            node = node_type(T, torch.rand(64) + 0.5, backend=backend).to(sizes.device)
            for name, (run, read) in workloads(node, x).items():
                moved = (read + run().nbytes) / milliseconds(run, sizes)
                what = f"{node_type.__name__}, {name}, {dtype}, T={T}"
                yield Line("kernels", what, moved / 1e6, "GB/s", moved / copied)


def converted(ann: nn.Module, sizes: Sizes, T: int, execution: str) -> nn.Module:
    """The network that ``ann`` becomes; two images do, because times do not depend on thresholds."""
    options = {"threshold": "max", "calibration": "none", "time_steps": T, "show_progress": False}
    calibration = [torch.randn(2, 3, sizes.image, sizes.image, device=sizes.device)]
    snn = sjpc.ParallelConverter(calibration, **options).convert(ann)
    snn.execution = execution
    if sizes.device == "cuda":
        snn.backend = "cupy" if _has_cupy() else "torch"
    return snn


def in_cuda_graph(run: Callable[[Tensor], Tensor], x: Tensor) -> Callable[[], object]:
    """``run(x)`` as one launch."""
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for _ in range(3):
            run(x)
    torch.cuda.synchronize()
    recorded = torch.cuda.CUDAGraph()
    with torch.cuda.graph(recorded):
        run(x)
    return recorded.replay


@torch.no_grad()
def networks(sizes: Sizes) -> Iterator[Line]:
    """A network in its forms; ratios are to the ANN as it is."""
    ann = sizes.make().eval().to(sizes.device)
    snns = {T: converted(ann, sizes, T, "spikes") for T in sizes.steps}
    packed = converted(ann, sizes, sizes.steps[0], "packed")
    forms = [(dtype, torch.contiguous_format) for dtype in DTYPES] + [(torch.float16, torch.channels_last)]
    for batch, (dtype, layout) in ((batch, form) for batch in reversed(sizes.batches) for form in forms):
        x = torch.randn(batch, 3, sizes.image, sizes.image, device=sizes.device, dtype=dtype)
        x = x.contiguous(memory_format=layout)

        def placed(model: nn.Module, dtype: torch.dtype = dtype, layout: torch.memory_format = layout) -> nn.Module:
            return copy.deepcopy(model).to(dtype).to(memory_format=layout)

        own, own_packed = placed(ann), placed(packed)
        runs = {"ANN": lambda own=own, x=x: partial(own, x)}
        runs["ANN, compiled"] = lambda own=own, x=x: partial(torch.compile(own), x)
        runs["packed"] = lambda snn=own_packed, x=x: partial(snn.predict, x)
        runs["packed, to_torch, compiled"] = lambda snn=own_packed, x=x: partial(torch.compile(sjpc.to_torch(snn)), x)
        if sizes.device == "cuda":
            runs["ANN, CUDA graph"] = lambda own=own, x=x: in_cuda_graph(own, x)
            runs["packed, CUDA graph"] = lambda snn=own_packed, x=x: in_cuda_graph(sjpc.to_torch(snn), x)
        for T, snn in snns.items():
            runs[f"spikes, T={T}"] = lambda snn=snn, x=x, placed=placed: partial(placed(snn).predict, x)
        if sizes.device == "cpu":  # where a compiler takes longer than all else
            runs = {name: run for name, run in runs.items() if "compiled" not in name}
        layout_name = "" if layout is torch.contiguous_format else ", channels last"
        yield from measured(f"{batch} x {sizes.image}, {dtype}{layout_name}", runs, sizes)


@torch.no_grad()
def rival(sizes: Sizes) -> Iterator[Line]:
    """The network with SpikingJelly's IF neurons, in this process; the ratio is to our trains."""
    T, batch = sizes.rival_steps, max(sizes.batches)
    ann = sizes.make().eval().to(sizes.device)
    x = torch.randn(batch, 3, sizes.image, sizes.image, device=sizes.device)
    # 0.0.0.0.14 leaves layers as they are, and those take no time axis.
    step_mode, run = ("m", rate_coded_multi_step) if hasattr(ann2snn, "RateCodingRecipe") else ("s", rate_coded)

    def theirs() -> Callable[[], object]:
        _, convert = next(settings([(x[:2], torch.zeros(2))]))
        snn = convert(copy.deepcopy(ann)).eval().to(sizes.device)
        functional.set_step_mode(snn, step_mode)
        return partial(run, snn, T, x)

    name = f"SpikingJelly, step mode '{step_mode}', T={T}, {os.environ.get(IMPLEMENTATION, 'as it is')}"
    runs = {f"ours, spikes, T={T}": lambda: partial(converted(ann, sizes, T, "spikes").predict, x), name: theirs}
    yield from measured(f"{batch} x {sizes.image}, beside SpikingJelly", runs, sizes)


def rivals(sizes: Sizes) -> Iterator[Line]:
    """:func:`rival`, each implementation of SpikingJelly's in a process of its own."""
    yield from rival(sizes)
    if sizes.device != "cuda" or not hasattr(ann2snn, "RateCodingRecipe"):
        return
    for name in RIVALS:
        command = [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), "--sections", "rival", "--json", "-"]
        done = subprocess.run(command, env=os.environ | {IMPLEMENTATION: name}, capture_output=True, text=True)
        if done.returncode:
            yield Line("beside SpikingJelly", name, None, note=(done.stderr.strip().splitlines() or ["?"])[-1])
        else:
            yield from (Line(**line) for line in json.loads(done.stdout.splitlines()[-1])["lines"])


@torch.no_grad()
def nodes(sizes: Sizes) -> Iterator[Line]:
    """Neurons alone; ratios are to the parallel neuron of the same T."""
    for T in sizes.node_steps:
        x_seq = torch.rand(T, *sizes.node, device=sizes.device)
        fast = "cupy" if sizes.device == "cuda" and _has_cupy() else "torch"

        def called(node: nn.Module, x_seq: Tensor = x_seq, resets: bool = False) -> Callable[[], object]:
            node = node.to(x_seq.device)
            return (lambda: (node.reset(), node(x_seq))) if resets else partial(node, x_seq)

        def serial(T: int = T, called: Callable = called) -> Callable[[], object]:
            node = sjpc.SpikePackNode(T)
            node.serial = True
            return called(node)

        runs = {f"parallel, {fast}": lambda T=T, f=called, b=fast: f(sjpc.ParallelConversionNode(T, backend=b))}
        runs["parallel, torch"] = lambda T=T, f=called: f(sjpc.ParallelConversionNode(T))
        if T <= 16:
            runs["SpikePack, closed form"] = lambda T=T, f=called: f(sjpc.SpikePackNode(T))
            runs["SpikePack, serial"] = serial
        runs["IF of SpikingJelly, multi-step"] = lambda f=called: f(neuron.IFNode(step_mode="m"), resets=True)
        yield from measured(f"one layer of neurons, T={T}", runs, sizes)


@torch.no_grad()
def conversions(sizes: Sizes) -> Iterator[Line]:
    """Seconds of a conversion; the ratio is to a pass of the ANN over the same images."""
    ann = sizes.make().eval().to(sizes.device)
    data = list(torch.randn(4 * max(sizes.batches), 3, sizes.image, sizes.image, device=sizes.device).split(32))
    passed = milliseconds(lambda: [ann(x) for x in data], sizes) / 1000
    for calibration in ("none", "least_squares", "weights"):
        convert = sjpc.ParallelConverter(data, calibration=calibration, show_progress=False).convert
        start = time.perf_counter()
        convert(ann)
        if sizes.device == "cuda":
            torch.cuda.synchronize()
        took = time.perf_counter() - start
        yield Line(f"conversion, {sum(map(len, data))} images", calibration, took, "s", took / passed)


def _has_cupy() -> bool:
    try:
        sjpc.ParallelConversionNode(1, backend="cupy")
    except sjpc.ConfigError:
        return False
    return True
