"""Accuracy over time-steps and modes: points that were given, or networks that are evaluated."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from numbers import Real
from typing import Any

from torch import nn

from ...ann2snn.config import MODES
from ...errors import ConfigError
from ...parameters import as_integer
from ..evaluate import evaluate
from .networks import NETWORKS, Converted, mode_of

_WANTED = (
    "Give converted networks, points with mode, time_steps, accuracy and agreement, or a dict of such by name. What "
    "suggest_time_steps returns is taken as well"
)
Point = dict[str, Any]
Entry = tuple[str | None, Converted | Point]  # the name of a line, and a network or a point


def entries_of(curve: object) -> Iterator[Entry]:
    """
    What a user gave as ``curve``, one entry at a time, so that a generator may convert network after network.

    :param curve: an iterable of networks and points, a dict of these by the name of their line, or something that has
        an iterable as its ``curve``
    :return: the name of the line, ``None`` for that of the mode; and a converted network, or a point that was checked
    :raises ConfigError: if it is something else
    """
    curve = getattr(curve, "curve", curve)
    if curve is None:
        return
    if isinstance(curve, (str, bytes, nn.Module)) or not isinstance(curve, Iterable):
        raise ConfigError(f"curve: got {type(curve).__name__}. {_WANTED}")
    if not isinstance(curve, Mapping):
        yield from ((None, _checked(entry, f"curve[{i}]")) for i, entry in enumerate(curve))
        return
    for name, value in curve.items():
        if not isinstance(name, str):
            raise ConfigError(f"curve: the keys of a dict name the lines and are strings, got {name!r}")
        many = isinstance(value, Iterable) and not isinstance(value, (Mapping, str, bytes, *NETWORKS))
        for entry in value if many else [value]:
            yield name, _checked(entry, f"curve[{name!r}]")


def checked_curve(curve: object) -> Iterable[Entry]:
    """:return: as :func:`entries_of`; all at once, and so checked, unless ``curve`` is a generator"""
    return entries_of(curve) if isinstance(curve, Iterator) else list(entries_of(curve))


def points_of(
    entries: Iterable[Entry], snn: Converted, own: Point, ann: nn.Module, data: Iterable[Any], show_progress: bool
) -> list[Point]:
    """
    :param entries: as :func:`entries_of` gives them
    :param snn: the network of the report, which is not evaluated again
    :param own: its point; its line is renamed, if the entries have a name for it
    :param ann: the ANN to agree with
    :param data: what the other networks are evaluated on
    :param show_progress: whether progress bars are drawn
    :return: ``own`` and the other points; ``source`` says whether a point was ``"measured"`` here or ``"given"``
    """
    points = [own]
    for name, entry in entries:
        if entry is snn:
            own["line"] = name or own["line"]
        elif isinstance(entry, NETWORKS):
            found = evaluate(entry, data, ann=ann, show_progress=show_progress)
            mode = mode_of(entry)
            points.append(point(name or mode, mode, entry.time_steps, found.accuracy, found.agreement, "measured"))
        else:
            points.append({**entry, "line": name or entry["mode"]})
    return points


def point(
    line: str, mode: str, time_steps: int, accuracy: float | None, agreement: float | None, source: str
) -> Point:
    """A point as it stands in the metrics."""
    return {
        "line": line, "mode": mode, "time_steps": time_steps, "accuracy": accuracy, "agreement": agreement,
        "source": source,
    }  # fmt: skip


def _checked(entry: object, where: str) -> Converted | Point:
    if isinstance(entry, NETWORKS):
        return entry
    mode, steps, accuracy, agreement = (_part(entry, name) for name in ("mode", "time_steps", "accuracy", "agreement"))
    if mode is None and steps is None:
        raise ConfigError(f"{where}: got {type(entry).__name__}. {_WANTED}")
    if mode not in MODES:
        raise ConfigError(f"{where}: mode must be one of {', '.join(map(repr, MODES))}, got {mode!r}")
    count = as_integer(steps)
    if count is None or count < 1:
        raise ConfigError(f"{where}: time_steps must be an integer >= 1, got {steps!r}")
    for name, value in (("accuracy", accuracy), ("agreement", agreement)):
        if value is not None and not _is_share(value):
            raise ConfigError(f"{where}: {name} must be None or a share from 0 to 1, got {value!r}")
    if accuracy is None and agreement is None:
        raise ConfigError(f"{where}: there is neither an accuracy nor an agreement")
    accuracy, agreement = (None if value is None else float(value) for value in (accuracy, agreement))
    return point(mode, mode, count, accuracy, agreement, "given")


def _is_share(value: Any) -> bool:
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    return is_number and bool(0 <= value <= 1)


def _part(entry: object, name: str) -> Any:
    return entry.get(name) if isinstance(entry, Mapping) else getattr(entry, name, None)
