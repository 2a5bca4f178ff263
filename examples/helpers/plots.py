"""A plot of accuracy over T."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from .evaluation import Result


def plot(results: Sequence[Result], path: Path) -> Path:
    """
    :param results: the lines of the table. Of several executions of one network, which have one accuracy, give one
    :param path: the PNG to write, its folder is made
    :return: ``path``
    """
    figure = Figure(figsize=(7, 4), layout="constrained")  # without pyplot: needs no screen
    axes = figure.subplots()
    for method in dict.fromkeys(r.method for r in results):
        points = [r for r in results if r.method == method]
        if points[0].time_steps is None:
            axes.axhline(points[0].accuracy, color="black", linestyle=":", label=method)
        else:
            axes.plot(
                [r.time_steps for r in points],
                [r.accuracy for r in points],
                "-o",
                label=method.removesuffix(", spikes"),
            )
    steps = sorted({r.time_steps for r in results if r.time_steps})
    axes.set_xscale("log", base=2)
    axes.set_xticks(steps, [str(T) for T in steps])
    axes.set_xlabel("time-steps T")
    axes.set_ylabel("accuracy (%)")
    axes.grid(alpha=0.3)
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    return path
