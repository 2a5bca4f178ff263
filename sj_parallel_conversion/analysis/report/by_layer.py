"""A picture with a value for each layer: a row for each, or an axis from input to output if there are many."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, Locator, LogLocator, MaxNLocator

from .svg import MUTED

_MOST_NAMES = 40
_ROW = 19  # pixels
_LONGEST_NAME = 24


class LayerAxes:
    """
    Axes with a place for each layer.

    :param figure: of matplotlib
    :param names: of the layers, in the order in which they run
    :param label: what is shown
    """

    def __init__(self, figure: Figure, names: Sequence[str], label: str) -> None:
        self.axes = figure.subplots()
        self.named = len(names) <= _MOST_NAMES
        self._places = range(len(names))
        (self.axes.set_xlabel if self.named else self.axes.set_ylabel)(label)
        if self.named:
            self.axes.set_yticks(self._places, [_short(name) for name in names])
            self.axes.set_ylim(len(names) - 0.4, -0.6)
        else:
            self.axes.set_xlabel("layers from input to output")
        self.axes.grid(axis="y" if self.named else "x", visible=False)
        self._number(MaxNLocator(5, steps=[1, 2, 5, 10]))

    @staticmethod
    def height(layers: int, legend: bool = False) -> int:
        """How many pixels a figure of so many layers needs."""
        return (50 + _ROW * layers if layers <= _MOST_NAMES else 300) + 26 * legend

    def bars(self, values: Sequence[float], colours: Sequence[str]) -> None:
        """A bar for each layer, from 0."""
        (self.axes.barh if self.named else self.axes.bar)(self._places, values, 0.62, color=colours)

    def ranges(self, low: Sequence[float], high: Sequence[float], colour: str) -> None:
        """A line for each layer; one that has a single value gets a short one."""
        style: dict[str, Any] = {"color": colour, "linewidth": 5 if self.named else 2, "capstyle": "round"}
        (self.axes.hlines if self.named else self.axes.vlines)(self._places, low, high, **style)

    def dots(self, values: Sequence[float], colour: str) -> None:
        """A dot for each layer."""
        x, y = (values, self._places) if self.named else (self._places, values)
        self.axes.scatter(x, y, s=18 if self.named else 8, color=colour, zorder=3)

    def logarithmic(self) -> None:
        """The values' axis shows powers."""
        (self.axes.set_xscale if self.named else self.axes.set_yscale)("log")
        self._number(LogLocator(subs=(1, 2, 5)))
        self.axes.minorticks_off()

    def _number(self, locator: Locator) -> None:
        axis = self.axes.xaxis if self.named else self.axes.yaxis
        axis.set_major_locator(locator)
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))

    def legend(self, entries: dict[str, tuple[str, str]]) -> None:
        """:param entries: colour and marker by label"""
        marks = [Line2D([], [], color=c, marker=m, linestyle="", markersize=6) for c, m in entries.values()]
        style = {"ncols": len(entries), "handletextpad": 0.1, "columnspacing": 1.0, "labelcolor": MUTED}
        self.axes.figure.legend(marks, list(entries), loc="outside upper left", borderpad=0, **style)


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"…{name[1 - _LONGEST_NAME :]}"
