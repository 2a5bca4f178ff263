"""Submodules by name: which to convert where a model cannot be converted as a whole."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn

from ...errors import ConfigError, ConversionError, SJPCError
from .. import graph
from ..data.batches import CalibrationData
from ..data.inputs import Call
from ..graph.keeping import similar
from ..graph.side_effects import undone
from ..graph.signals import LAYER, Signals
from .calls import PartData, first_calls


def find_submodules(
    model: nn.Module, patterns: Sequence[str], calls: dict[str, Call], layers_alone: bool = False
) -> list[str]:
    """
    :param model: any module
    :param patterns: names of submodules, in which ``*``, ``?`` and ``[...]`` are wildcards (``*`` also matches dots)
    :param calls: what the submodules are called with, of :func:`~.calls.first_calls`
    :param layers_alone: whether submodules without an activation can be converted
    :return: the submodules to convert. A plain name stands for itself; of those that a pattern with wildcards
        matches, the outermost that can be converted are taken
    :raises ConfigError: if ``patterns`` is no list of strings, or one of them matches no submodule
    :raises ConversionError: if none of the submodules that a pattern matches can be converted; the message says why
    """
    if isinstance(patterns, str) or not patterns or not all(isinstance(p, str) for p in patterns):
        raise ConfigError(f'submodules must be a list of names such as ["backbone", "head.*"], got {patterns!r}')
    found: set[str] = set()
    for pattern in patterns:
        found |= _matching(model, pattern, calls, layers_alone)
    return [name for name, _ in model.named_modules(remove_duplicate=False) if _is_outermost(model, name, found)]


def convertible_submodules(model: nn.Module, dataloader: Iterable[Any] | None = None) -> list[str]:
    """
    :param model: any module
    :param dataloader: calibration data for the model, of which the first batch is run; it cannot be left out
    :return: the outermost submodules that can be converted with what they are called with, and that have layers as
        well as activations; each was tried
    :raises DataError: if the model does not run on the first batch
    """
    plain = graph.plain_copy(model).eval()
    found: list[str] = []
    with undone(plain):
        calls = first_calls(plain, PartData(plain, dataloader, None).first())
        for name, _ in plain.named_modules():
            if name not in calls or _is_inside(plain, name, found):
                continue
            if _obstacle(plain, name, calls[name], lone=False) is None:
                found.append(name)
    return found


def with_suggestions(error: ConversionError, model: nn.Module, dataloader: Iterable[Any]) -> ConversionError:
    """
    :param error: why the model cannot be converted as a whole
    :param model: the model
    :param dataloader: calibration data
    :return: the same error, with the submodules that can be converted
    """
    try:
        parts = convertible_submodules(model, dataloader)
    except SJPCError:
        parts = []
    if not parts:
        return error
    hint = f"These submodules can be converted in its place: convert(model, submodules={parts})"
    return ConversionError(f"{error}.\n{hint}")


def _matching(model: nn.Module, pattern: str, calls: dict[str, Call], layers_alone: bool) -> set[str]:
    names = [name for name, _ in model.named_modules(remove_duplicate=False) if name]
    matches = [name for name in names if fnmatchcase(name, pattern)]
    if not matches:
        near = similar(pattern, names)
        raise ConfigError(f"submodules: {pattern!r} matches no submodule of the model. Near: {near}")
    if matches == [pattern]:
        return {pattern}
    found: set[str] = set()
    obstacles = {}
    for name in matches:
        if _is_inside(model, name, found):
            continue
        obstacle = _obstacle(model, name, calls.get(name), lone=True, layers_alone=layers_alone)
        if obstacle is None:
            found.add(name)
        else:
            obstacles[name] = obstacle
    if not found:
        name, reason = next(iter(obstacles.items()))
        raise ConversionError(f"submodules: nothing that {pattern!r} matches can be converted; {name!r}: {reason}")
    return found


def _is_outermost(model: nn.Module, name: str, found: set[str]) -> bool:
    """Whether ``name`` is wanted and is neither inside another nor a second name of one."""
    if name not in found or _is_inside(model, name, found):
        return False
    module = model.get_submodule(name)
    order = [other for other, m in model.named_modules(remove_duplicate=False) if m is module and other in found]
    return order[0] == name


def _is_inside(model: nn.Module, name: str, others: Iterable[str]) -> bool:
    """Whether the way to ``name`` leads through another of the modules, under whichever of its names."""
    outer = {id(model.get_submodule(other)) for other in others}
    parents = itertools.accumulate(name.split(".")[:-1], lambda path, step: f"{path}.{step}")
    return any(id(model.get_submodule(parent)) in outer for parent in parents)


@torch.no_grad()
def _obstacle(
    model: nn.Module, name: str, call: Call | None, lone: bool, layers_alone: bool = False
) -> str | None:
    """
    Why the submodule cannot be converted; ``lone``: whether an activation without a layer can be, ``layers_alone``:
    whether layers without an activation can be.
    """
    if not name:
        return "it is the model itself"
    if call is None:
        return "it is not called when the model runs on the calibration data, or not with a tensor"
    module = model.get_submodule(name)
    device = next((t.device for t in [*module.parameters(), *module.buffers()]), torch.device("cpu"))
    try:
        net, _ = graph.graph_of(module, CalibrationData([call], module, device, None, False), device)
        if layers_alone:
            graph.give_layers_spikes(net, graded_input=True)
        sites = {node.target for node in graph.activation_sites(net)}
    except SJPCError as error:
        return str(error)
    return None if lone or Signals(net, sites).nodes(LAYER) else "there is no layer in it"
