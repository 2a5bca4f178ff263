"""A plot of accuracy, agreement and speed over T."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .evaluation import Result

PANELS = {
    "accuracy": "accuracy (%)",
    "agreement": "same class as the ANN (%)",
    "images_per_second": "images per second",
}


def draw(axes: Axes, results: Sequence[Result], value: str) -> None:
    """
    :param axes: where to draw
    :param results: the lines of the table
    :param value: the field of :class:`Result` to draw against T
    """
    for method in dict.fromkeys(r.method for r in results):
        points = [r for r in results if r.method == method]
        values = [getattr(r, value) for r in points]
        if points[0].time_steps is None:
            axes.axhline(values[0], color="black", linestyle=":", label=method)
        else:
            style = "--s" if "packed" in method else "-o"
            axes.plot([r.time_steps for r in points], values, style, label=method, markersize=4, alpha=0.8)
    steps = sorted({r.time_steps for r in results if r.time_steps})
    axes.set_xscale("log", base=2)
    axes.set_xticks(steps, [str(T) for T in steps])
    axes.set_xlabel("time-steps T")
    axes.set_ylabel(PANELS[value])
    axes.grid(alpha=0.3)


def plot(results: Sequence[Result], path: Path) -> Path:
    """
    :param results: the lines of the table
    :param path: the PNG to write, its folder is made
    :return: ``path``
    """
    figure = Figure(figsize=(13, 4), layout="constrained")  # without pyplot: needs no screen
    panels = figure.subplots(1, len(PANELS))
    for axes, value in zip(panels, PANELS, strict=True):
        draw(axes, results, value)
    panels[-1].set_yscale("log")
    panels[0].legend(fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    return path
