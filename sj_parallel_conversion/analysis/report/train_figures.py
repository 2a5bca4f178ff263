"""Pictures of spike trains: a row for each neuron, a column for each step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .svg import BLUE, GRID, INK, MUTED, ORANGE

_MOST_STEPS = 128
_FEW_STEPS = 16  # up to which each step has its number
_NAMES = {"sorted": "sorted", "binary": "binary", "signed_digit": "signed digit"}


def draw_trains(figure: Figure, layers: Sequence[dict[str, Any]]) -> None:
    """
    :param figure: of matplotlib
    :param layers: names and trains of some of their neurons
    """
    heights = [len(layer["neurons"]) + 1.2 for layer in layers]
    panels = figure.subplots(len(layers), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axes, layer in zip(panels, layers, strict=True):
        axes.set_title(_short(layer["name"]), loc="left", fontsize=12, color=INK)
        _draw(axes, layer["neurons"], [f"level {neuron['level']}" for neuron in layer["neurons"]])
        _number_steps(axes, layer["time_steps"])
    panels[-1].set_xlabel(_step_label(layers[-1]["time_steps"]))


def draw_codes(figure: Figure, codes: Sequence[dict[str, Any]]) -> None:
    """
    :param figure: of matplotlib
    :param codes: trains of the same neurons in each code
    """
    panels = figure.subplots(len(codes), 1)
    for axes, code in zip(panels, codes, strict=True):
        own = ", this network's" if code["own"] else ""
        axes.set_title(f"{_NAMES[code['code']]}{own}: {spikes_in(code)} spikes", loc="left", fontsize=12, color=INK)
        highest = code["max_level"]
        _draw(axes, code["neurons"], [f"{n['level']} of {highest}" for n in code["neurons"]])
        steps = code["time_steps"]
        if steps <= _FEW_STEPS:
            axes.set_xticks(range(1, steps + 1), [f"{weight:g}" for weight in code["weights"]])
        else:
            _number_steps(axes, steps)
        axes.set_xlabel("weight of a spike at this step" if steps <= _FEW_STEPS else _step_label(steps))


def spikes_in(code: dict[str, Any]) -> int:
    """How many spikes there are in the trains of some neurons."""
    return sum(abs(symbol) for neuron in code["neurons"] for symbol in neuron["train"])


def _draw(axes: Axes, neurons: Sequence[dict[str, Any]], labels: Sequence[str]) -> None:
    steps = len(neurons[0]["train"])
    first = max(1, steps - _MOST_STEPS + 1)
    for symbol, colour in ((1, BLUE), (-1, ORANGE)):
        spikes = [
            (t, row)
            for row, neuron in enumerate(neurons)
            for t, value in enumerate(neuron["train"], 1)
            if value == symbol and t >= first
        ]
        if spikes:
            t, rows = zip(*spikes, strict=True)
            axes.bar(t, 0.72, width=0.36, bottom=[row - 0.36 for row in rows], color=colour)
    axes.hlines(range(len(neurons)), first - 0.5, steps + 0.5, color=GRID, linewidth=1, zorder=0)
    axes.set_yticks(range(len(neurons)), labels)
    axes.tick_params(axis="y", labelcolor=MUTED)
    axes.set_xlim(first - 0.5, steps + 0.5)
    axes.set_ylim(len(neurons) - 0.4, -0.6)
    axes.grid(visible=False)


def _number_steps(axes: Axes, steps: int) -> None:
    if steps <= _FEW_STEPS:
        axes.set_xticks(range(1, steps + 1))
    else:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _step_label(steps: int) -> str:
    return "time-step" if steps <= _MOST_STEPS else f"time-step, the last {_MOST_STEPS}"


def _short(name: str) -> str:
    return name if len(name) <= 50 else f"…{name[-49:]}"
