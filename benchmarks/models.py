"""
Converts other people's models with random weights, and prints a line for each and the counts of each library.

    python benchmarks/models.py                              # every library that is installed
    python benchmarks/models.py --library timm transformers  # these
    python benchmarks/models.py swin resnet18                # models with such a name
    python benchmarks/models.py --results outputs/models.jsonl    # what the file has is not run again

`python -m nox --session models` installs the libraries first. What the columns say:

- result: "whole" if one call of `convert` took the model and every activation call of the ANN has a neuron;
  "incomplete" if it took the model and some activation calls have none; "parts" if submodules were converted; "fails".
- neurons: how many layers of neurons the result has. activations: how many activation functions the ANN calls on values
  that depend on its input (benchmarks/model_zoo/activation_calls.py says which functions count).
- AC, %: of the ANN's multiply-accumulates, those that became accumulates.
- error, %: squared error of css at T = 12 relative to the ANN's outputs, on the calibration samples. Each part of a
  model in parts is given what the ANN's submodule gets.
- without a neuron: the activation functions that the converted network still calls outside of neurons.
"""

from __future__ import annotations

import argparse
import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

# Read when torch and ultralytics are imported. Threads that wait by spinning make a busy machine ten times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("YOLO_VERBOSE", "false")

from model_zoo import LIBRARIES, Entry, entries_of
from model_zoo.measure import Line, measure

HEADER = ("library", "model", "result", "neurons", "activations", "AC, %", "error, %", "s", "without a neuron", "why")
RESULTS = ("whole", "incomplete", "parts", "fails")


def row(line: Line) -> str:
    """
    :param line: of the table
    :return: the same in Markdown
    """
    cells = [line.library, line.model, line.result]
    if line.result == "fails":
        cells += ["", str(line.calls), "", "", f"{line.seconds:.1f}", ""]
    else:
        cells += [str(line.neurons), str(line.calls), f"{100 * line.share:.1f}", f"{100 * line.error:.2g}"]
        cells += [f"{line.seconds:.1f}", line.left]
    return f"| {' | '.join([*cells, _escaped('; '.join(line.why))])} |"


def _escaped(text: str) -> str:
    return (text if len(text) <= 300 else text[:297] + "...").replace("|", "\\|")


def totals(lines: list[Line]) -> str:
    """
    :param lines: the table
    :return: how many models of each library have which result
    """
    counts: dict[str, Counter[str]] = {}
    for line in lines:
        counts.setdefault(line.library, Counter())[line.result] += 1
    texts = []
    for library, of in counts.items():
        results = ", ".join(f"{of[result]} {result}" for result in RESULTS if of[result])
        texts.append(f"{library}: {results} of {of.total()}")
    return "; ".join(texts)


def chosen(libraries: list[str], filters: list[str]) -> Iterator[Entry]:
    """
    :param libraries: keys of ``LIBRARIES``
    :param filters: parts of models' names; none: all models
    :return: the models to convert
    """
    for library in libraries:
        entries = entries_of(library)
        if entries is None:
            print(f"{library} is not installed: its models are left out", flush=True)
        yield from (e for e in entries or [] if not filters or any(part in e.name for part in filters))


def read(results: Path | None) -> dict[tuple[str, str], Line]:
    """
    :param results: a file that an earlier run wrote; it need not exist
    :return: its lines, by library and model
    """
    texts = results.read_text().splitlines() if results and results.exists() else []
    lines = [Line(**json.loads(text)) for text in texts]
    return {(line.library, line.model): line for line in lines}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("filters", nargs="*", help="parts of models' names; none: all models")
    parser.add_argument("--library", nargs="+", default=list(LIBRARIES), choices=list(LIBRARIES))
    parser.add_argument("--limit", type=int, default=600, help="seconds that one model may take")
    parser.add_argument("--results", type=Path, help="file of results; what it has is not run again")
    options = parser.parse_args()
    done, lines = read(options.results), []
    print(f"| {' | '.join(HEADER)} |\n{'|---' * len(HEADER)}|", flush=True)
    for entry in chosen(options.library, options.filters):
        line = done.get((entry.library, entry.name)) or measure(entry, options.limit)
        lines.append(line)
        print(row(line), flush=True)
        if options.results and (entry.library, entry.name) not in done:
            options.results.parent.mkdir(parents=True, exist_ok=True)
            with options.results.open("a") as file:
                file.write(json.dumps(asdict(line)) + "\n")
    print(f"\n{totals(lines)}")


if __name__ == "__main__":
    main()
