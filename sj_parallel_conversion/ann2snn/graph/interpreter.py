"""Running a graph node by node."""

from __future__ import annotations

from collections.abc import Callable

from torch import fx


class Interpreter(fx.Interpreter):
    """
    An ``fx.Interpreter`` that hands functions plain lists and dicts, as the model's own code did: those of a graph
    cannot be changed, and torchvision's 3-D Swin changes one.
    """

    def call_function(self, target: Callable, args: tuple, kwargs: dict[str, object]) -> object:
        """As in ``fx.Interpreter``."""
        return super().call_function(target, tuple(map(_plain, args)), {k: _plain(v) for k, v in kwargs.items()})


def _plain(value: object) -> object:
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return tuple(map(_plain, value)) if type(value) is tuple else value
