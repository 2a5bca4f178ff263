"""Modules that a conversion leaves as they are, because the user named them."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Iterable
from fnmatch import fnmatchcase

from torch import fx, nn

from ...errors import ConfigError
from .signals import operation_name

_WILDCARDS = "*?["


def similar(pattern: str, names: list[str]) -> str:
    """The names that are most like a pattern that matches none of them, for an error message."""
    near = difflib.get_close_matches(pattern.strip(_WILDCARDS + "]."), names, n=5, cutoff=0.4)
    return ", ".join(near or names[:5])


def check_patterns(patterns: Iterable[str], names: Iterable[str]) -> None:
    """:raises ConfigError: if a pattern of the option ``keep`` matches none of ``names``"""
    names = [name for name in dict.fromkeys(names) if name]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ConfigError(
                f"keep: {pattern!r} matches no layer and no module of the model. Near: {similar(pattern, names)}"
            )


def names_of(model: fx.GraphModule, ann: nn.Module) -> list[str]:
    """What ``keep`` may name: the modules of the ANN, and the operations of its graph as ``inspect`` names them."""
    modules = [name for name, _ in ann.named_modules(remove_duplicate=False)]
    return modules + [operation_name(node) for node in model.graph.nodes if node.op.startswith("call")]


def mark_kept(model: fx.GraphModule, patterns: Iterable[str], prefix: str = "") -> None:
    """
    Mark the operations that stay as they are, for :func:`~.operations.is_kept`.

    :param model: a captured network
    :param patterns: names, in which ``*``, ``?`` and ``[...]`` are wildcards (``*`` also matches dots). A module's name
        stands for all that is in it
    :param prefix: what stands before the names, for a part of a model
    """
    patterns = tuple(patterns)
    for node in model.graph.nodes:
        if not node.op.startswith("call"):
            continue
        names = {prefix + operation_name(node), prefix + node.meta.get("path", "")}
        around = {outer for name in names for outer in itertools.accumulate(name.split("."), "{}.{}".format)}
        if any(fnmatchcase(name, pattern) for name in around for pattern in patterns):
            node.meta["kept"] = True
