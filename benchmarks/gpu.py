"""All that is to be known of a GPU, in one command of at most eight minutes.

    python benchmarks/gpu.py --json gpu.json      # needs a CUDA GPU; for the kernels CuPy, for the tests pytest
    python benchmarks/gpu.py --tiny               # small sizes, on a CPU too: shows that the script works

It goes on in this order, as long as there is time.

1. The GPU tests.
2. Each kernel's bandwidth, beside that of a copy on the same card. The bytes that have to move are counted: input and
   output once each. A static input has one step.
3. ResNet-50, in three dtypes and both memory formats. It runs as ANN, compiled ANN, packed network, packed network in a
   CUDA graph, and with real trains.
4. The same network with SpikingJelly's multi-step IF neurons, on each implementation that SpikingJelly has.
5. Parallel, serial and IF neurons alone.
6. Conversions.

What fails is a line that says why. So is what there was no time for.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import torch
from gpu_sections import Line, Sizes, conversions, gpu_tests, kernels, networks, nodes, rival, rivals, tiny

SECTIONS = {
    "tests": gpu_tests, "kernels": kernels, "networks": networks, "rivals": rivals, "rival": rival, "nodes": nodes,
    "conversions": conversions,
}  # fmt: skip


def lines_of(name: str, sizes: Sizes, end: float) -> Iterator[Line]:
    """The lines of a section, until ``end``; one that fails says why."""
    try:
        for line in SECTIONS[name](sizes) if time.perf_counter() < end else ():
            yield line
            if time.perf_counter() > end:
                break
    except Exception as error:
        yield Line(name, "", None, note=f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}")
    if time.perf_counter() > end:
        yield Line(name, "", None, note="not finished: the time is over")


def text_of(line: Line) -> str:
    """A row of the table, in Markdown."""
    value = "" if line.value is None else f"{line.value:.3g} {line.unit}"
    ratio = "" if line.ratio is None else f"{line.ratio:.2f}"
    return f"| {line.section} | {line.what} | {value} | {ratio} | {line.note} |"


def main(argv: list[str] | None = None) -> None:
    """Print the table, row by row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    chosen = [name for name in SECTIONS if name != "rival"]
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=chosen)
    parser.add_argument("--minutes", type=float, default=8.0, help="after which nothing new begins")
    parser.add_argument("--tiny", action="store_true", help="small sizes, which a CPU can run")
    parser.add_argument("--json", metavar="FILE", help="write all figures there, too; - : to the output alone")
    args = parser.parse_args(argv)
    sizes = tiny() if args.tiny else Sizes()
    if sizes.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("torch sees no CUDA GPU; --tiny runs small sizes on a CPU")
    card = torch.cuda.get_device_name() if sizes.device == "cuda" else "CPU"
    end, lines, quiet = time.perf_counter() + 60 * args.minutes, [], args.json == "-"
    if not quiet:
        print(f"{card}, torch {torch.__version__}\n\n| | what | | ratio | |\n|---|---|---:|---:|---|")
    for name in args.sections:
        for line in lines_of(name, sizes, end):
            lines.append(line)
            if not quiet:
                print(text_of(line), flush=True)
    found = json.dumps({"device": card, "torch": torch.__version__, "lines": [asdict(line) for line in lines]})
    if quiet:
        print(found)
    elif args.json:
        Path(args.json).write_text(found)


if __name__ == "__main__":
    main()
