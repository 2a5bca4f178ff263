"""Objects that hold tensors where a capture cannot follow them, such as a cache of keys and values."""

from __future__ import annotations

import types

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


def _holds_tensors(value: object, depth: int = _DEPTH) -> bool:
    if isinstance(value, Tensor):
        return True
    if depth == 0 or isinstance(value, _NO_STATE):
        return False
    if isinstance(value, dict):
        inner = list(value.values())
    elif isinstance(value, (list, tuple, set)):
        inner = list(value)
    else:
        inner = list(getattr(value, "__dict__", {}).values())
    return any(_holds_tensors(item, depth - 1) for item in inner)
