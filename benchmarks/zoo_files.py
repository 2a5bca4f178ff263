"""
Whether torchvision's networks, converted, come back from a file as they were: one line a model.

    python benchmarks/zoo_files.py                # all of them; what outputs/zoo_files.jsonl has is not run again
    python benchmarks/zoo_files.py resnet vit     # those with such a name

Networks, inputs and weights are those of zoo.py. A second process loads each file. It cannot import torchvision, and
its outputs have to equal those of the first one to the bit, in packed and in spikes execution.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torchvision
from torch.utils._pytree import tree_leaves
from zoo import FAMILIES, build, parameters_of, wake

import sj_parallel_conversion as sjpc

EXECUTIONS = ("packed", "spikes")
FORBIDDEN = ("torchvision", "transformers", "timm", "zoo")
READER = """
import sys

class Forbidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {forbidden!r}:
            raise ImportError(name + " is forbidden here")

sys.meta_path.insert(0, Forbidden())
import torch
from torch.utils._pytree import tree_leaves
import sj_parallel_conversion as sjpc

torch.set_num_threads(1)
for line in sys.stdin:
    path = line.strip()
    try:
        images, expected = torch.load(path + ".pt")
        snn = sjpc.load(path)
        different = []
        for execution, outputs in expected.items():
            snn.execution = execution
            if not all(map(torch.equal, tree_leaves(snn.predict(images)), outputs)):
                different.append(execution)
        print("different in " + ", ".join(different) if different else "exact", flush=True)
    except Exception as error:
        print(type(error).__name__ + ": " + str(error).partition(chr(10))[0], flush=True)
"""


@contextmanager
def reader() -> Iterator[Callable[[Path], str]]:
    """A process that knows this package alone; it is given a file, and says whether what is in it is right."""
    command = [sys.executable, "-W", "ignore", "-c", READER.format(forbidden=FORBIDDEN)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:

        def ask(path: Path) -> str:
            process.stdin.write(f"{path}\n")
            process.stdin.flush()
            return process.stdout.readline().strip() or "the reader has ended"

        try:
            yield ask
        finally:
            process.stdin.close()


@torch.no_grad()
def write(name: str, path: Path) -> None:
    """
    :param name: a model of torchvision
    :param path: of the file with the converted network; one beside it takes images, and outputs by execution
    """
    torch.manual_seed(0)
    model, shape = build(name)
    images = torch.randn(2, *shape)
    wake(model, images)
    options = {"threshold": "max", "calibration": "none", "show_progress": False}
    snn = sjpc.ParallelConverter([images], "css", 8, **options).convert(model)
    outputs = {}
    for execution in EXECUTIONS:
        snn.execution = execution
        outputs[execution] = tree_leaves(snn.predict(images))
    sjpc.save(snn, path)
    torch.save((images, outputs), f"{path}.pt")


def run(names: Iterable[str], results: Path) -> None:
    """
    Print a line for each network that ``results`` lacks, small ones first.

    :param names: models of torchvision
    :param results: a file, to which each line is added
    """
    results.parent.mkdir(parents=True, exist_ok=True)
    lines = results.read_text().splitlines() if results.exists() else []
    done = {line["model"] for line in map(json.loads, lines) if line["file"] == "exact"}
    with reader() as ask, tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "network.safetensors")
        for name in sorted(set(names) - done, key=parameters_of):
            try:
                write(name, path)
                gc.collect()  # graphs refer to themselves, and the reader needs the memory
                found = ask(path)
            except Exception as error:
                found = f"{type(error).__name__}: {str(error).partition(os.linesep)[0]}"
            line = json.dumps({"model": name, "file": found})
            print(line, flush=True)
            with results.open("a") as file:
                file.write(line + "\n")


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("filters", nargs="*", help="parts of models' names; none: all models")
    parser.add_argument("--family", nargs="+", default=list(FAMILIES), choices=list(FAMILIES))
    parser.add_argument("--results", type=Path, default=Path("outputs/zoo_files.jsonl"))
    options = parser.parse_args(argv)
    names = [n for family in options.family for n in torchvision.models.list_models(module=FAMILIES[family])]
    run([n for n in names if not options.filters or any(part in n for part in options.filters)], options.results)


if __name__ == "__main__":
    main()
