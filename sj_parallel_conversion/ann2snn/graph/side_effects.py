"""What a model's forward and its hooks keep for the user, such as a list of features, is given back as it was."""

from __future__ import annotations

import functools
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from ...torch_compat import tree_leaves

_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
_CONTAINERS = (list, dict, set, deque)
_LIBRARIES = {*sys.stdlib_module_names, "torch", "torchvision", "numpy"}


@contextmanager
def undone(model: nn.Module) -> Iterator[None]:
    """
    Lists, dicts and sets that functions of ``model`` reach hold afterwards what they hold now, and so do attributes of
    the objects whose methods are hooks. What the modules themselves hold is not looked at: ``model`` is a copy.

    :param model: a copy of a model, which shares its functions with the original
    """
    containers: dict[int, tuple[Any, Any]] = {}
    for module in model.modules():
        for function in _functions(module):
            _collect(function, containers)
    try:
        yield
    finally:
        for container, content in containers.values():
            _restore(container, content)


def held_tensors(model: nn.Module) -> Iterator[Tensor]:
    """
    :param model: any module
    :return: tensors that its modules hold, and what its forward and its hooks reach, such as features of the last call
    """
    containers: dict[int, tuple[Any, Any]] = {}
    for module in model.modules():
        yield from (leaf for leaf in tree_leaves(list(vars(module).values())) if isinstance(leaf, Tensor))
        for function in _functions(module, (*_HOOKS, "_backward_hooks", "_backward_pre_hooks")):
            _collect(function, containers)
    for container, _ in containers.values():
        yield from (value for value in _values(container) if isinstance(value, Tensor))


def _functions(module: nn.Module, hooks: tuple[str, ...] = _HOOKS) -> Iterator[object]:
    yield module.forward
    for kind in hooks:
        yield from getattr(module, kind).values()


def _values(container: Any) -> list[object]:
    return list(container.values() if isinstance(container, dict) else container)


def _collect(thing: Any, containers: dict[int, tuple[Any, Any]], depth: int = 3) -> None:
    """Note the contents of what ``thing`` reaches, through at most ``depth`` functions and objects."""
    if id(thing) in containers or depth < 0 or isinstance(thing, (nn.Module, type)):
        return
    if isinstance(thing, _CONTAINERS):
        containers[id(thing)] = (thing, thing.copy())
        for value in _values(thing):
            if isinstance(value, _CONTAINERS):
                _collect(value, containers, depth - 1)
    elif isinstance(thing, functools.partial):
        for value in (thing.func, *thing.args, *thing.keywords.values()):
            _collect(value, containers, depth - 1)
    elif hasattr(thing, "__func__"):
        _collect(thing.__func__, containers, depth - 1)
        _collect_attributes(thing.__self__, containers, depth - 1)
    elif hasattr(thing, "__code__"):
        for value in _reached(thing):
            _collect(value, containers, depth - 1)
    elif type(thing).__module__ != "builtins" and not isinstance(thing, Tensor):
        _collect_attributes(thing, containers, depth - 1)


def _collect_attributes(thing: object, containers: dict[int, tuple[Any, Any]], depth: int) -> None:
    attributes = getattr(thing, "__dict__", None)
    if isinstance(thing, (nn.Module, type)) or not isinstance(attributes, dict):
        return
    containers.setdefault(id(attributes), (attributes, attributes.copy()))
    for value in list(attributes.values()):
        _collect(value, containers, depth)


def _reached(function: Any) -> Iterator[object]:
    """What a Python function may write to: its closure, its defaults, and globals that its code names."""
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # not set yet
            continue
    yield from function.__defaults__ or ()
    named = (function.__globals__.get(name) for name in function.__code__.co_names)
    yield from (value for value in named if isinstance(value, _CONTAINERS) or _is_of_the_user(value))


def _is_of_the_user(value: object) -> bool:
    """Whether a value may be an object that keeps what a hook sees: no class, function or file, and no library's."""
    library = type(value).__module__.partition(".")[0]
    return hasattr(value, "__dict__") and library not in _LIBRARIES and not isinstance(value, (type, nn.Module))


def _restore(container: Any, content: Any) -> None:
    if isinstance(container, (list, deque)):
        if len(container) != len(content) or any(a is not b for a, b in zip(container, content, strict=True)):
            container.clear()
            container.extend(content)
    elif isinstance(container, dict):
        if container.keys() != content.keys() or any(container[key] is not content[key] for key in content):
            container.clear()
            container.update(content)
    elif container != content:
        container.clear()
        container.update(content)
