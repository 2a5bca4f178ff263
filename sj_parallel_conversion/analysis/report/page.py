"""The page: metrics and pictures, put into the template by jinja2, which escapes all text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from .figures import figures_of
from .numbers import count, energy, percent, points, significant

_NONE = "–"
_OPERATIONS = {
    "mac": "multiply-accumulate", "mac_int8": "multiply-accumulate of 8 bits", "access": "memory access",
    "accumulate_int8": "accumulate of 8 bits",
}  # fmt: skip


def render(metrics: dict[str, object]) -> str:
    """
    :param metrics: of a report
    :return: the page in HTML, which needs no other file
    """

    def number(text: Callable[..., str]) -> Callable[..., Markup]:
        """A filter whose result carries the exact value of what it shows."""

        def show(value: float | None, *options: object) -> Markup:
            if value is None:
                return Markup(_NONE)
            return Markup('<data value="{}">{}</data>').format(repr(value), text(value, *options))

        return show

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {
        "percent": number(percent), "points": number(points), "energy": number(energy), "count": number(count),
        "significant": number(significant), "operation": lambda name: _OPERATIONS.get(name, name),
    }  # fmt: skip
    figures = {name: Markup(figure) for name, figure in figures_of(metrics).items()}
    return environment.get_template("page.html").render(**metrics, figures=figures, worst=_worst(metrics))


def _worst(metrics: dict[str, Any]) -> dict[str, object] | None:
    rows = [row for row in metrics["errors"] if row["added"] is not None]
    return max(rows, key=lambda row: row["added"], default=None)
