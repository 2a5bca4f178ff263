"""Objects that hold tensors where a capture cannot follow them, such as a cache of keys and values."""

from __future__ import annotations

import types
from collections import deque
from collections.abc import Collection

from torch import Tensor, nn

from ...errors import ConversionError
from ...user_warnings import warn
from ..data.inputs import InputForm
from .capture import Outputs

_DEPTH = 5  # a cache holds a list of layers, and each of these its tensors
_NO_STATE = (type, nn.Module, types.FunctionType, types.MethodType, types.ModuleType)


def refuse_objects_with_tensors(form: InputForm) -> None:
    """
    :param form: how a model is called
    :raises ConversionError: if an argument is an object with tensors in it, which would be constants of the conversion
    """
    for name, value in zip(form.names, form.constants, strict=True):
        if _holds_tensors(value):
            raise ConversionError(
                f"argument {name!r} is a {type(value).__name__} that holds tensors, as a cache does. What is no "
                "tensor is a constant of the conversion. Convert the layers inside"
            )


def forget_objects_with_tensors(outputs: Outputs) -> None:
    """What a model returned in a capture has no values. ``None`` takes its place, in place, and a warning says so."""
    for i, value in enumerate(outputs.leaves):
        if _holds_tensors(value):
            outputs.leaves[i] = None
            warn(
                f"the model returns a {type(value).__name__}, and the converted network gives None in its place: it "
                "keeps no state from call to call. To generate text with a cache, convert the model in parts"
            )


def _holds_tensors(value: object) -> bool:
    found, seen = [value], {id(value)}
    for _ in range(_DEPTH + 1):
        if any(isinstance(x, Tensor) for x in found):
            return True
        inner = [y for x in found if not isinstance(x, _NO_STATE) for y in _inner(x)]
        found = [x for x in inner if id(x) not in seen]
        seen.update(map(id, found))
    return False


def _inner(value: object) -> Collection[object]:
    if isinstance(value, dict):
        return value.values()
    if isinstance(value, (list, tuple, set, frozenset, deque)):
        return value
    slots = [x for cls in type(value).__mro__ for x in vars(cls).values() if type(x) is types.MemberDescriptorType]
    kept = [slot.__get__(value) for slot in slots if _is_set(slot, value)]
    return [*kept, *getattr(value, "__dict__", {}).values()]


def _is_set(slot: types.MemberDescriptorType, value: object) -> bool:
    try:
        slot.__get__(value)
    except AttributeError:
        return False
    return True
