"""What each step of the calibration brings and costs, beside SpikingJelly's own recipes in the same run.

    python examples/calibration_study.py --data-root DIR

DIR as in cifar10_resnet20.py. :func:`study` takes any classifier and any data.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from cifar10 import add_model_options, load_images, load_model
from comparison import Comparison, Row, Score
from spikingjelly_recipes import recipes, with_modules
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

# threshold, calibration: each line adds a step to those above, the last three are alternatives
STEPS = [("max", "none"), ("99.9%", "none"), ("mse", "none")]
STEPS += [("mse", calibration) for calibration in ("da_qcfs", "least_squares", "weights")]


@torch.no_grad()
def study(
    ann: nn.Module,
    loader: Iterable,
    test: Iterable,
    held_out: Iterable,
    settings: Sequence[tuple[str, str]] = STEPS,
    time_steps: Sequence[int] = (2, 4, 8, 16),
    rival: nn.Module | None = None,
    memory: bool = False,
    **options: object,
) -> list[Row]:
    """
    All data are batches ``(x, y)`` that can be read more than once.

    :param ann: trained classifier in evaluation mode, left as it is
    :param loader: calibration data
    :param test: test data
    :param held_out: further images, for the agreement with ``ann``
    :param settings: thresholds and calibrations to try
    :param time_steps: the T to try
    :param rival: the same network in a form that SpikingJelly's recipes take; ``None`` leaves them out
    :param memory: whether peak memory is measured; ``ann`` is then pickled, and its classes must be importable
    :param options: of every conversion of this package, such as ``mode``
    :return: the lines of the table, the first with the ANN's accuracy
    """
    data = Comparison(ann, loader, test, held_out)
    rows = [Row("ANN", {T: Score(data.ann_accuracy, 100.0) for T in time_steps}, 1.0)]
    rows += [data.calibration(*setting, time_steps, memory, **options) for setting in settings]
    if rival is not None:
        rows += [data.recipe(name, c, rival, time_steps, memory) for name, c in recipes(rival, loader).items()]
    return rows


def table(rows: Sequence[Row], time_steps: Sequence[int]) -> str:
    """
    :param rows: of :func:`study`
    :param time_steps: the columns
    :return: a table in Markdown, and the settings that the recipes did best with
    """
    lines = ["| threshold, calibration | " + " | ".join(f"T={T}" for T in time_steps) + " | cost | peak MiB |"]
    lines.append("|---|" + "---:|" * (len(time_steps) + 2))
    for row in rows:
        cells = [f"{s.accuracy:.2f} ({s.agreement:.2f})" for s in row.scores.values()]
        cells = cells or [row.failure.replace("|", "\\|"), *[""] * (len(time_steps) - 1)]
        cells.append("" if row.cost is None else f"{row.cost:.1f}")
        cells.append("" if row.peak_mebibytes is None else f"{row.peak_mebibytes:.0f}")
        lines.append(f"| {row.method} | " + " | ".join(cells) + " |")
    chosen = [(row.method, T, s.setting) for row in rows for T, s in row.scores.items() if s.setting]
    return "\n".join([*lines, "", *(f"- {method}, T={T}: {setting}" for method, T, setting in chosen)])


def parse_arguments() -> argparse.Namespace:
    """
    :return: the command line
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model_options(parser)
    parser.add_argument("--time-steps", type=int, nargs="+", default=[2, 4, 8, 16], metavar="T")
    parser.add_argument("--images", type=int, default=1024, metavar="N", help="for calibration; as many are held out")
    parser.add_argument("--batch-size", type=int, default=64, metavar="N")
    parser.add_argument("--mode", default="parallel")
    parser.add_argument("--test-images", type=int, metavar="N", help="(default: all)")
    parser.add_argument("--skip-rivals", action="store_true", help="leave SpikingJelly's own recipes out")
    parser.add_argument("--memory", action="store_true", help="measure the peak memory of a conversion, too")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there, too")
    return parser.parse_args()


def main() -> None:
    """Print the table for a CIFAR-10 ResNet."""
    args = parse_arguments()
    n = args.images
    ann = load_model(args)
    train, test = (load_images(args.data_root, *part) for part in (("train", 2 * n), ("test", args.test_images)))
    parts = {"calibration": [x[:n] for x in train], "test": test, "held-out": [x[n:] for x in train]}
    loaders = [DataLoader(TensorDataset(*part), args.batch_size) for part in parts.values()]
    rival = None if args.skip_rivals else with_modules(ann)
    rows = study(ann, *loaders, time_steps=args.time_steps, rival=rival, memory=args.memory, mode=args.mode)
    counts = ", ".join(f"{len(labels)} {name}" for name, (_, labels) in parts.items())
    print(f"{args.model}, mode={args.mode}, {counts} images. In %: test accuracy (agreement with the ANN, held out)")
    print("cost: time of a conversion over that of one pass of the ANN over the calibration images\n")
    print(table(rows, args.time_steps))
    if args.json:
        args.json.write_text(json.dumps([asdict(row) for row in rows], indent=1))


if __name__ == "__main__":
    main()
