"""What a converted network costs in time and memory, beside its ANN and all that a user would pick in its place.

    python benchmarks/benchmark.py             # all tables, ten minutes on two cores
    python benchmarks/benchmark.py --quick     # less than a minute

Times are medians of runs that take turns in one process, as ratios to the ANN as it was given; peak memory is that of
fresh processes, without the weights. Weights are random: they change accuracy and not time. Beside SpikingJelly's own
conversion stand torch.compile, ONNX Runtime in float and int8, and OpenVINO in int8, as far as they are installed.

On a machine that others use, `--threads 1 --clock process` measures the process's own time.
"""

from __future__ import annotations

import argparse
import copy
import io
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median

import torch
from benchmark_rivals import rivals
from efficientnet_lite import lite0
from helpers.models import cifar_resnet
from helpers.rate_coding import rate_coded, rate_coded_multi_step, settings
from node_forms import FORMS
from spikingjelly.activation_based import functional
from timing import alternating, peak_memory, ratios
from torch import Tensor, nn
from torchvision.models import resnet18, vit_b_16

import sj_parallel_conversion as sjpc

# name, network, images in a batch, their size
NETWORKS: list[tuple[str, Callable[[], nn.Module], int, int]] = [
    ("ResNet-18, 8 images of 64x64", partial(resnet18, num_classes=10), 8, 64),
    ("ResNet-20, 32 images of 32x32", partial(cifar_resnet, "resnet20"), 32, 32),
    ("ResNet-18, 8 images of 224x224", partial(resnet18, num_classes=10), 8, 224),
    ("ResNet-18, 1 image of 224x224", partial(resnet18, num_classes=10), 1, 224),
    ("EfficientNet-Lite0, 8 images of 224x224", lite0, 8, 224),
    ("ViT-B/16, 1 image of 224x224", vit_b_16, 1, 224),
]
CLOCKS = {"wall": time.perf_counter, "process": time.process_time}
FORM_STEPS = (4, 16, 64)


@dataclass(frozen=True)
class Row:
    """
    One line of a table.

    :param network: the network and its input, or the neuron
    :param method: what ran
    :param milliseconds: the median of its runs
    :param ratio: to the ANN, in one process
    :param peak_mebibytes: peak memory beyond what was there before the call; ``None`` if not measured
    """

    network: str
    method: str
    milliseconds: float
    ratio: float
    peak_mebibytes: float | None = None


def parse_arguments() -> argparse.Namespace:
    """
    :return: the command line
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the first network, fewer runs")
    parser.add_argument("--networks", type=int, nargs="+", metavar="N", help="numbers of the networks, from 0 on")
    parser.add_argument("--skip-runtimes", action="store_true", help="leave compilers and other runtimes out")
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--modes", nargs="+", default=["parallel", "spikepack", "css"], metavar="MODE")
    parser.add_argument("--packed", type=int, nargs="*", default=[4, 16, 64], metavar="T")
    parser.add_argument("--spikes", type=int, nargs="*", default=[8, 32], metavar="T")
    parser.add_argument("--weighted", type=int, default=8, metavar="T", help="time-steps of spikepack and css")
    parser.add_argument("--shortcut", default="auto", help="what identity shortcuts carry: spikes (auto) or membrane")
    parser.add_argument("--rate-coding", type=int, nargs="*", default=[32, 48], metavar="T", help="SpikingJelly's T")
    parser.add_argument("--seconds", type=float, help="for each network (default: 120, quick: 20)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there, too")
    return parser.parse_args()


def calibration(x: Tensor) -> list[Tensor]:
    """
    :param x: an input
    :return: calibration data; two images do, because times do not depend on thresholds
    """
    return [x[:2]]


def convert(
    ann: nn.Module, x: Tensor, mode: str, time_steps: int, execution: str, shortcut: str = "auto"
) -> sjpc.SpikingNetwork:
    """
    :param ann: a network
    :param x: an input
    :param mode: the neuron
    :param time_steps: T
    :param execution: ``"packed"``, ``"spikes"``, either of them with ``", prepacked"``, ``"stepwise"``,
        ``"int8 weights"``, or ``"int8 weights, all layers"``, which takes calibration data
    :param shortcut: what identity shortcuts carry
    :return: the converted network, ready to run
    """
    options = {"threshold": "max", "calibration": "da_qcfs", "show_progress": False, "shortcut": shortcut}
    snn = sjpc.ParallelConverter(calibration(x), mode=mode, time_steps=time_steps, **options).convert(ann)
    if execution.startswith("int8 weights"):
        return sjpc.to_int8(snn, [x] if execution.endswith("all layers") else None)
    snn.execution, _, prepacked = execution.partition(", ")
    return sjpc.prepack(snn) if prepacked else snn


def spiking_methods(ann: nn.Module, x: Tensor, args: argparse.Namespace) -> dict[str, Callable[[Tensor], Tensor]]:
    """
    :param ann: a network
    :param x: an input
    :param args: the command line
    :return: this package's ways to run the converted network
    """
    methods = {}
    for mode in args.modes:
        parallel = mode == "parallel"
        spikes = args.spikes if parallel else [args.weighted]
        runs = [("packed", T) for T in (args.packed if parallel else [args.weighted])]
        runs += [("spikes", T) for T in spikes]
        once = ("packed, prepacked", "int8 weights", "int8 weights, all layers", "stepwise") if parallel else ()
        runs += [(execution, T) for execution in ("spikes, prepacked", *once) for T in spikes[-1:]]
        for execution, T in runs:
            methods[f"{mode}, {execution}, T={T}"] = convert(ann, x, mode, T, execution, args.shortcut).predict
    return methods


def rate_coding(ann: nn.Module, x: Tensor, time_steps: Sequence[int]) -> dict[str, Callable[[Tensor], Tensor]]:
    """
    :param ann: a network
    :param x: an input
    :param time_steps: T, in step mode "s"; the first of them in step mode "m", too, which keeps all steps in memory
    :return: SpikingJelly's conversion; nothing if it cannot convert the network
    """
    try:
        with redirect_stderr(io.StringIO()):  # progress bars
            _, converter = next(settings([(x[:2], torch.zeros(2))]))
            single = converter(copy.deepcopy(ann)).eval()
        multi = copy.deepcopy(single)
        functional.set_step_mode(multi, "m")
        rate_coded_multi_step(multi, 2, x)
    except Exception as error:
        print(f"SpikingJelly's own conversion does not take this network: {error}")
        return {}
    runs = [("s", single, rate_coded, T) for T in time_steps]
    runs += [("m", multi, rate_coded_multi_step, T) for T in time_steps[:1]]
    name = "SpikingJelly rate coding, step mode '{}', T={}"
    return {name.format(step_mode, T): partial(run, snn, T) for step_mode, snn, run, T in runs}


def measure(
    name: str,
    methods: dict[str, Callable],
    x: Tensor,
    seconds: float,
    memory: bool,
    clock: Callable[[], float] = time.perf_counter,
) -> list[Row]:
    """
    :param name: of the network, or the neuron
    :param methods: functions of ``x``
    :param x: their input
    :param seconds: how long
    :param memory: whether peak memory is measured, of what can be pickled
    :param clock: gives seconds
    :return: a row for each method
    """
    times = alternating({method: partial(run, x) for method, run in methods.items()}, seconds, name, clock)
    pickled = {m: run for m, run in methods.items() if memory and "Runtime" not in m and "OpenVINO" not in m}
    pickled = {m: run for m, run in pickled.items() if "compile" not in m}
    peaks = {method: peak_memory(run, x) if method in pickled else None for method, run in methods.items()}
    relative = ratios(times)
    return [Row(name, m, 1000 * median(times[m]), relative[m], peaks[m]) for m in methods]


def node_forms(T: int, seconds: float) -> list[Row]:
    """
    :param T: number of time-steps
    :param seconds: how long
    :return: one parallel neuron in the paper's forms and in the closed form, on 64 channels of 32x32
    """
    x_seq = torch.rand(T, 4, 64, 32, 32) * 1.5
    node = sjpc.ParallelConversionNode(T, 1.0)
    methods = {f"{name}": partial(form, v_threshold=1.0, psi=0.5) for name, form in FORMS.items()}
    methods |= {"closed form": node, "closed form, a byte a spike": node.spikes}
    return measure(f"one neuron, T={T}, 4 x 64 x 32 x 32 currents", methods, x_seq, seconds, memory=False)


def table(rows: list[Row], against: str) -> str:
    """
    :param rows: of one network
    :param against: what ratios refer to
    :return: a table in Markdown
    """
    lines = [f"### {rows[0].network}", "", f"| method | ms | time / {against} | peak MiB |", "|---|---:|---:|---:|"]
    for row in rows:
        peak = "" if row.peak_mebibytes is None else f"{row.peak_mebibytes:.0f}"
        lines.append(f"| {row.method} | {row.milliseconds:.1f} | {row.ratio:.2f} | {peak} |")
    return "\n".join(lines)


def main() -> None:
    """Print the tables."""
    args = parse_arguments()
    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    seconds = args.seconds or (20 if args.quick else 120)
    print(f"torch {torch.__version__}, {args.threads} threads\n")
    rows: list[Row] = []
    chosen = args.networks or ([0] if args.quick else range(len(NETWORKS)))
    for name, make, batch, size in (NETWORKS[number] for number in chosen):
        ann, x = make().eval(), torch.randn(batch, 3, size, size)
        methods = {"ANN as given": ann, **spiking_methods(ann, x, args)}
        methods |= rate_coding(ann, x, args.rate_coding) if args.rate_coding else {}
        with tempfile.TemporaryDirectory() as folder:
            if not args.skip_runtimes:
                methods |= rivals(ann, convert(ann, x, "parallel", 7, "packed", "spikes"), x, Path(folder))
            rows += (new := measure(name, methods, x, seconds, not args.quick, CLOCKS[args.clock]))
        print(table(new, "ANN") + "\n", flush=True)
    for T in FORM_STEPS:
        rows += (new := node_forms(T, seconds / 20))
        print(table(new, "matrix form") + "\n", flush=True)
    if args.json:
        args.json.write_text(json.dumps([asdict(row) for row in rows], indent=1))


if __name__ == "__main__":
    main()
