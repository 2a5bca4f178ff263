"""Submodules by name: which to convert where a model cannot be converted as a whole."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn

from ...errors import ConfigError, ConversionError
from .. import graph

_WILDCARDS = "*?["


def find_submodules(model: nn.Module, patterns: Sequence[str]) -> list[str]:
    """
    :param model: any module
    :param patterns: names of submodules, in which ``*``, ``?`` and ``[...]`` are wildcards (``*`` also matches dots)
    :return: the submodules to convert. A plain name stands for itself; of those that a pattern with wildcards
        matches, the outermost that can be converted are taken
    :raises ConfigError: if ``patterns`` is no list of strings, or one of them matches no submodule
    :raises ConversionError: if none of the submodules that a pattern matches can be converted; the message says why
    """
    if isinstance(patterns, str) or not patterns or not all(isinstance(p, str) for p in patterns):
        raise ConfigError(f'submodules must be a list of names such as ["backbone", "head.*"], got {patterns!r}')
    found: set[str] = set()
    for pattern in patterns:
        found |= _matching(model, pattern)
    return [name for name, _ in model.named_modules() if name in found and not _is_inside(name, found)]


def convertible_submodules(model: nn.Module) -> list[str]:
    """
    :param model: any module
    :return: the outermost submodules that torch.fx can trace, that take one input and that have activations to
        convert. Whether that input is a tensor, and not a list or a dict, is not known before the model runs
    """
    found: set[str] = set()
    for name, module in model.named_modules():
        if name and not _is_inside(name, found) and _obstacle(module) is None:
            found.add(name)
    return sorted(found, key=[name for name, _ in model.named_modules()].index)


def _matching(model: nn.Module, pattern: str) -> set[str]:
    names = [name for name, _ in model.named_modules() if name]
    matches = [name for name in names if fnmatchcase(name, pattern)]
    if not matches:
        near = difflib.get_close_matches(pattern.strip(_WILDCARDS + "]."), names, n=5, cutoff=0.4) or names[:5]
        raise ConfigError(f"submodules: {pattern!r} matches no submodule of the model. Near: {', '.join(near)}")
    if matches == [pattern]:
        return {pattern}
    found: set[str] = set()
    obstacles = {}
    for name in matches:
        if _is_inside(name, found):
            continue
        obstacle = _obstacle(model.get_submodule(name))
        if obstacle is None:
            found.add(name)
        else:
            obstacles[name] = obstacle
    if not found:
        name, reason = next(iter(obstacles.items()))
        raise ConversionError(f"submodules: nothing that {pattern!r} matches can be converted; {name!r}: {reason}")
    return found


def _is_inside(name: str, others: set[str]) -> bool:
    return any(name.startswith(f"{other}.") for other in others)


def _obstacle(module: nn.Module) -> str | None:
    """Why ``module`` cannot be converted, as far as can be told before data are read."""
    try:
        graph.check_single_input(module)
        model = graph.trace(module)
        graph.remove_inplace(model)
        graph.standardise_activations(model)
        graph.activation_sites(model)
    except ConversionError as error:
        return str(error)
    return None
