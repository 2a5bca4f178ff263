"""What each step of the calibration brings and costs, beside SpikingJelly's own recipes in the same run.

    python benchmarks/calibration_study.py --data-root DIR
    python benchmarks/calibration_study.py --data-root DIR --skip-rivals --settings mse:weights --draws 10

DIR as in examples/cifar10_resnet20.py. :func:`study` takes any classifier and any data. The second call shows how far
a result depends on the choice of calibration images, which on some hundred test images is much of what single results
differ by.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import mean, stdev

import torch
from comparison import Comparison, Row, Score
from helpers.cifar10 import add_model_options, load_images, load_model
from spikingjelly_recipes import recipes, with_modules
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

# threshold, calibration, shortcut: each line adds a step to those above, the calibrations are alternatives
STEPS = [("max", "none"), ("99.9%", "none"), ("mse", "none"), ("mse", "da_qcfs"), ("mse", "least_squares")]
STEPS += [("mse", "least_squares", "membrane"), ("mse", "weights", "spikes"), ("mse", "weights", "membrane")]


@torch.no_grad()
def study(
    ann: nn.Module,
    loader: Iterable,
    test: Iterable,
    held_out: Iterable,
    settings: Sequence[Sequence[str]] = STEPS,
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
    :param settings: thresholds and calibrations to try, with or without the ``shortcut``
    :param time_steps: the T to try
    :param rival: the same network in a form that SpikingJelly's recipes take; ``None`` leaves them out
    :param memory: whether peak memory is measured; ``ann`` is then pickled, and its classes must be importable
    :param options: of every conversion of this package, such as ``mode``
    :return: the lines of the table, the first with the ANN's accuracy
    """
    data = Comparison(ann, loader, test, held_out)
    rows = [Row("ANN", {T: Score(data.ann_accuracy, 100.0) for T in time_steps}, 1.0)]
    rows += [data.calibration(setting, time_steps, memory, **options) for setting in settings]
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
        cells = [_cell(score) for score in row.scores.values()]
        cells = cells or [row.failure.replace("|", "\\|"), *[""] * (len(time_steps) - 1)]
        cells.append("" if row.cost is None else f"{row.cost:.1f}")
        cells.append("" if row.peak_mebibytes is None else f"{row.peak_mebibytes:.0f}")
        lines.append(f"| {row.method} | " + " | ".join(cells) + " |")
    chosen = [(row.method, T, s.setting) for row in rows for T, s in row.scores.items() if s.setting]
    return "\n".join([*lines, "", *(f"- {method}, T={T}: {setting}" for method, T, setting in chosen)])


def _cell(score: Score) -> str:
    deviation = "" if score.deviation is None else f" +- {score.deviation:.2f}"
    return f"{score.accuracy:.2f}{deviation} ({score.agreement:.2f})"


def over_draws(studies: Sequence[list[Row]]) -> list[Row]:
    """
    :param studies: the same study with several draws of the calibration images, two at least
    :return: its lines with the means, and the standard deviations of the accuracies
    """
    return [_mean(rows) for rows in zip(*studies, strict=True)]


def _mean(rows: Sequence[Row]) -> Row:
    failed = next((row for row in rows if row.failure), None)
    if failed is not None:
        return failed
    scores = {}
    for T in rows[0].scores:
        accuracies = [row.scores[T].accuracy for row in rows]
        agreement = mean(row.scores[T].agreement for row in rows)
        scores[T] = Score(mean(accuracies), agreement, deviation=stdev(accuracies))
    peaks = [row.peak_mebibytes for row in rows if row.peak_mebibytes is not None]
    return Row(rows[0].method, scores, mean(row.cost for row in rows), max(peaks, default=None))


def setting(text: str) -> list[str]:
    """
    :param text: of the command line, such as ``"mse:weights"`` or ``"mse:weights:spikes"``
    :return: threshold, calibration and, if it is there, shortcut
    :raises argparse.ArgumentTypeError: if it is not two or three names
    """
    names = text.split(":")
    if len(names) not in (2, 3) or not all(names):
        raise argparse.ArgumentTypeError(f"{text!r} is no THRESHOLD:CALIBRATION[:SHORTCUT] such as mse:weights")
    return names


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
    parser.add_argument("--views", action="store_true",
                        help="each test and held-out image also mirrored, and shifted two pixels down and to the left: "
                        "their means scatter less")  # fmt: skip
    parser.add_argument("--settings", nargs="+", type=setting, default=STEPS, metavar="SETTING",
                        help="lines of the table, THRESHOLD:CALIBRATION or THRESHOLD:CALIBRATION:SHORTCUT (default: "
                        "each step added to those before it)")  # fmt: skip
    parser.add_argument("--draws", type=int, default=1, metavar="N",
                        help="draw the calibration images at random, N times, and print means")  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the first draw; the next has N + 1")
    parser.add_argument("--skip-rivals", action="store_true", help="leave SpikingJelly's own recipes out")
    parser.add_argument("--memory", action="store_true", help="measure the peak memory of a conversion, too")
    parser.add_argument("--json", type=Path, metavar="FILE",
                        help="write all figures there, too, those of each draw")  # fmt: skip
    args = parser.parse_args()
    if args.draws < 1:
        parser.error(f"--draws must be >= 1, got {args.draws}")
    return args


def draw(images: Sequence[Tensor], n: int, seed: int, batch_size: int) -> DataLoader:
    """
    :param images: images and labels
    :param n: how many to draw
    :param seed: of the draw
    :param batch_size: of the loader
    :return: a loader of ``n`` of them, always in the same order
    """
    chosen = torch.randperm(len(images[0]), generator=torch.Generator().manual_seed(seed))[:n]
    return DataLoader(TensorDataset(*(x[chosen] for x in images)), batch_size)


def views(images: Sequence[Tensor]) -> list[Tensor]:
    """
    :param images: images ``[N, 3, H, W]`` and labels ``[N]``
    :return: the images as they are, mirrored, and shifted by two pixels (around the edge), and their labels
    """
    x, labels = images
    return [torch.cat([x, x.flip(3), x.roll(2, 2), x.roll(-2, 3)]), labels.repeat(4)]


def main() -> None:
    """Print the table for a CIFAR-10 ResNet."""
    args = parse_arguments()
    n = args.images
    ann = load_model(args)
    train = load_images(args.data_root, "train", 2 * n if args.draws == 1 else None)
    parts = {
        "calibration": [x[:n] for x in train],
        "test": load_images(args.data_root, "test", args.test_images),
        "held-out": [x[n : 2 * n] for x in train],
    }
    if args.views:
        parts = {name: part if name == "calibration" else views(part) for name, part in parts.items()}
    loaders = [DataLoader(TensorDataset(*part), args.batch_size) for part in parts.values()]
    rival = None if args.skip_rivals else with_modules(ann)
    options = {"time_steps": args.time_steps, "memory": args.memory, "mode": args.mode}
    calibration = loaders[:1]
    if args.draws > 1:
        others = [torch.cat([x[:n], x[2 * n :]]) for x in train]
        if len(others[0]) < 2 * n:
            raise SystemExit(f"--draws: {len(others[0])} images to draw {n} from, so that draws hardly differ")
        calibration = [draw(others, n, args.seed + i, args.batch_size) for i in range(args.draws)]
    studies = [study(ann, loader, *loaders[1:], args.settings, rival=rival, **options) for loader in calibration]
    rows = studies[0] if args.draws == 1 else over_draws(studies)
    counts = ", ".join(f"{len(labels)} {name}" for name, (_, labels) in parts.items())
    print(f"{args.model}, mode={args.mode}, {counts} images. In %: test accuracy (agreement with the ANN, held out)")
    print("cost: time of a conversion over that of one pass of the ANN over the calibration images\n")
    print(table(rows, args.time_steps))
    if args.json:
        args.json.write_text(json.dumps([[asdict(row) for row in rows] for rows in studies], indent=1))


if __name__ == "__main__":
    main()
