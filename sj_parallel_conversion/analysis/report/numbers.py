"""Numbers as people read them."""

from __future__ import annotations

_UNITS = (("J", 1e12), ("mJ", 1e9), ("µJ", 1e6), ("nJ", 1e3), ("pJ", 1))


def percent(value: float, digits: int = 1) -> str:
    """A share, such as ``91.8 %``; small ones get two digits that count."""
    shown = 100 * value
    return f"{shown:,.{digits}f} %" if shown == 0 or abs(shown) >= 0.1 else f"{shown:.2g} %"


def points(value: float) -> str:
    """A difference of shares, with its sign."""
    return f"{round(100 * value, 1) + 0.0:+.1f} points".replace("-", "−")


def energy(picojoules: float) -> str:
    """Three digits that count, in the unit that leaves one to three before the point."""
    shown = float(f"{picojoules:.3g}")
    unit, size = next(((unit, size) for unit, size in _UNITS if shown >= size), _UNITS[-1])
    return f"{significant(shown / size)} {unit}"


def count(value: float) -> str:
    """A number of things: whole, or with one digit after the point where it is small."""
    return f"{value:,.0f}" if value >= 100 or value == round(value) else f"{value:.1f}"


def significant(value: float) -> str:
    """Three digits that count; more of large whole numbers."""
    return f"{value:.3g}" if abs(value) < 999.5 else f"{value:,.0f}"
