"""The pictures of a report, drawn from its metrics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from matplotlib.figure import Figure

from . import svg
from .by_layer import LayerAxes
from .metrics import Metrics
from .svg import BLUE, GREEN, INK, MUTED, ORANGE, PAPER
from .train_figures import draw_codes, draw_trains, spikes_in

_COLOURS = (BLUE, ORANGE, GREEN)
_DASHES = ("-", (0, (6, 3)), (0, (2, 2)))
_KINDS = {
    "arithmetic": "arithmetic,\n32-bit floats", "arithmetic_int8": "arithmetic,\n8-bit weights",
    "memory": "memory without\nreuse, floats", "memory_int8": "memory without\nreuse, 8 bits",
}  # fmt: skip


def figures_of(metrics: Metrics) -> dict[str, str]:
    """
    :param metrics: of a report
    :return: SVG elements by name; those for which there is nothing to show are missing
    """
    drawn = {name: make(metrics) for name, make in _FIGURES.items()}
    return {name: figure for name, figure in drawn.items() if figure}


def _curve(metrics: Metrics) -> str | None:
    points, results = metrics["curve"], metrics["results"]
    known = {what: [p for p in points if p[what] is not None] for what in ("accuracy", "agreement")}
    what = max(known, key=lambda name: len(known[name]))  # accuracy, if both are known
    shown = known[what]
    if len(shown) < 2:
        return None
    lines = dict.fromkeys(p["line"] for p in shown)
    steps = sorted({p["time_steps"] for p in shown})

    def plot(figure: Figure) -> None:
        """A line for each mode, and a ring around the network of the report."""
        axes = figure.subplots()
        for i, line in enumerate(lines):
            own = sorted((p["time_steps"], 100 * p[what]) for p in shown if p["line"] == line)
            # Lines may lie on each other: those that come later are thinner, and broken.
            style: dict[str, Any] = {"linestyle": _DASHES[(i + i // 3) % 3], "linewidth": 2.2, "markersize": 6 - i % 3}
            axes.plot(*zip(*own, strict=True), color=_COLOURS[i % 3], marker="o^s"[i % 3], label=line, **style)
        if what == "accuracy" and results["ann_accuracy"] is not None:
            axes.axhline(100 * results["ann_accuracy"], color=INK, linewidth=1, linestyle=(0, (4, 3)), label="the ANN")
        this = points[0]
        if this[what] is not None:
            ring: dict[str, Any] = {"s": 130, "facecolor": "none", "edgecolor": INK, "linewidth": 1.5, "zorder": 3}
            axes.scatter([this["time_steps"]], [100 * this[what]], label="this network", **ring)
        axes.set_xscale("log", base=2)
        axes.set_xticks(steps, [str(T) for T in steps])
        axes.minorticks_off()
        axes.set_xlabel("time-steps T")
        axes.set_ylabel("accuracy, %" if what == "accuracy" else "same answer as the ANN, %")
        axes.legend()

    said = ", ".join(f"{p['line']} at T = {p['time_steps']}: {p[what]:.1%}" for p in shown)
    return svg.draw("curve", 300, f"{what} over time-steps. {said}.", plot)


def _errors(metrics: Metrics) -> str | None:
    rows = [row for row in metrics["errors"] if row["added"] is not None and row["after"] is not None]
    if not rows:
        return None
    names = [row["name"] for row in rows]

    def plot(figure: Figure) -> None:
        axes = LayerAxes(figure, names, "error in % of the ANN's signal (squares)")
        added = [100 * row["added"] for row in rows]
        axes.bars(added, [ORANGE if value > 0 else BLUE for value in added])
        axes.dots([100 * row["after"] for row in rows], INK)
        axes.legend({"error here": (INK, "o"), "added by this layer": (ORANGE, "s"), "taken back": (BLUE, "s")})

    worst = max(rows, key=lambda row: row["added"])
    alt = f"Error by layer. {worst['name']} adds most, {worst['added']:.2%} of the signal."
    return svg.draw("errors", LayerAxes.height(len(rows), legend=True), alt, plot)


def _rates(metrics: Metrics) -> str | None:
    rows = metrics["neurons"]
    if not rows:
        return None

    def plot(figure: Figure) -> None:
        axes = LayerAxes(figure, [row["name"] for row in rows], "spikes of a neuron at each step, %")
        axes.bars([100 * row["firing_rate"] for row in rows], [BLUE] * len(rows))

    most = max(rows, key=lambda row: row["firing_rate"])
    alt = f"Firing rates by layer. {most['name']} fires most, {most['firing_rate']:.1%} of its steps."
    return svg.draw("rates", LayerAxes.height(len(rows)), alt, plot)


def _thresholds(metrics: Metrics) -> str | None:
    rows = [row for row in metrics["neurons"] if None not in row["v_threshold"]]
    if not rows:
        return None

    def plot(figure: Figure) -> None:
        axes = LayerAxes(figure, [row["name"] for row in rows], "v_threshold, in the ANN's units (logarithmic)")
        low, middle, high = zip(*(row["v_threshold"] for row in rows), strict=True)
        axes.ranges(low, high, BLUE)
        axes.dots(middle, INK)
        axes.logarithmic()
        axes.legend({"median": (INK, "o"), "smallest to largest of the channels": (BLUE, "s")})

    lowest, highest = min(row["v_threshold"][0] for row in rows), max(row["v_threshold"][2] for row in rows)
    alt = f"Thresholds by layer, from {lowest:.3g} to {highest:.3g}."
    return svg.draw("thresholds", LayerAxes.height(len(rows), legend=True), alt, plot)


def _energy(metrics: Metrics) -> str | None:
    shares = {name: share for name, share in metrics["operations"]["energy_share"].items() if share is not None}
    if not shares:
        return None

    def plot(figure: Figure) -> None:
        """A bar for each kind of energy, beside a line at that of the ANN."""
        axes, values = figure.subplots(), [100 * share for share in shares.values()]
        places = range(len(shares))
        axes.barh(places, values, height=0.55, color=[BLUE if value <= 100 else ORANGE for value in values])
        axes.axvline(100, color=INK, linewidth=1.2, linestyle=(0, (4, 3)))
        axes.annotate("the ANN", (100, 1), (4, -2), xycoords=("data", "axes fraction"), textcoords="offset points",
                      va="top", color=MUTED)  # fmt: skip
        for place, value in zip(places, values, strict=True):
            axes.annotate(f"{value:.0f} %", (value, place), (5, 0), textcoords="offset points", va="center", color=INK,
                          bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 1})  # fmt: skip
        axes.set_yticks(places, [_KINDS[name] for name in shares])
        axes.set_ylim(len(shares) - 0.4, -0.9)
        axes.set_xlim(0, 1.18 * max(100, *values))
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("estimated energy, % of the ANN's")

    said = ", ".join(f"{name.replace('_', ', ')} {share:.0%}" for name, share in shares.items())
    return svg.draw("energy", 260, f"Energy as a share of the ANN's: {said}.", plot)


def _trains(metrics: Metrics) -> str | None:
    layers = metrics["trains"]
    if not layers:
        return None
    rows = sum(len(layer["neurons"]) for layer in layers)
    count = f"{rows} neurons of {', '.join(layer['name'] for layer in layers)}"
    height = 60 + 15 * rows + 28 * len(layers)
    return svg.draw("trains", height, f"Spike trains of {count}.", lambda figure: draw_trains(figure, layers))


def _codes(metrics: Metrics) -> str | None:
    codes = metrics["codes"]
    if not codes:
        return None
    said = ", ".join(f"{code['code'].replace('_', ' ')} {spikes_in(code)} spikes" for code in codes["trains"])
    rows = sum(len(code["neurons"]) for code in codes["trains"])
    alt = f"The same neurons of {codes['layer']} in each code: {said}."
    return svg.draw("codes", 60 + 15 * rows + 62 * 3, alt, lambda figure: draw_codes(figure, codes["trains"]))


_FIGURES: dict[str, Callable[[Metrics], str | None]] = {
    "curve": _curve, "errors": _errors, "rates": _rates, "thresholds": _thresholds, "energy": _energy,
    "trains": _trains, "codes": _codes,
}  # fmt: skip
