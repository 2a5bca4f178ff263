"""Plain values as JSON and back: what a graph has as arguments, and what a module has as settings."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import torch
from torch.fx.immutable_collections import immutable_dict, immutable_list

from ..errors import FileError

Record = dict[str, Any]  # JSON, which may be damaged where it comes from a file
DEPTH = 50  # values are nested so deep at most
_DTYPES = (
    torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128, torch.bool,
    torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64,
)  # fmt: skip
_FORMATS = (torch.preserve_format, torch.contiguous_format, torch.channels_last, torch.channels_last_3d)


def _names(things: tuple[Any, ...]) -> dict[str, Any]:
    return {str(thing).removeprefix("torch."): thing for thing in things}


DTYPES: dict[str, torch.dtype] = _names(_DTYPES)
# What JSON has no word for: a name in the file, and the values that may stand there.
_CONSTANTS: dict[str, dict[str, Any]] = {
    "dtype": DTYPES, "memory_format": _names(_FORMATS), "layout": _names((torch.strided,)),
    "float": {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}, "constant": {"ellipsis": ...},
}  # fmt: skip
_BACK = {(kind, value): name for kind, values in _CONSTANTS.items() for name, value in values.items()}


def no_more(value: object) -> object:
    """:raises FileError: because a file has no form for ``value``"""
    raise FileError(f"a {type(value).__name__} cannot be saved: files hold numbers, words and tensors")


def encode(value: Any, other: Callable[[Any], object] = no_more) -> object:
    """
    :param value: a number, a word, and lists, tuples, dicts and slices of such
    :param other: makes JSON of everything else
    :return: the same as JSON
    """
    if value is None or type(value) in (bool, int, str):
        return value
    if type(value) is float:
        return value if math.isfinite(value) else {"float": repr(value)}
    if type(value) in (list, immutable_list):  # what graphs make of lists
        return [encode(item, other) for item in value]
    if type(value) in (tuple, torch.Size):
        return {"tuple" if type(value) is tuple else "size": [encode(item, other) for item in value]}
    if type(value) in (dict, immutable_dict):
        return {"dict": [[encode(key, other), encode(item, other)] for key, item in value.items()]}
    if isinstance(value, slice):
        return {"slice": [encode(item, other) for item in (value.start, value.stop, value.step)]}
    if type(value) is complex:
        return {"complex": [encode(value.real), encode(value.imag)]}
    if isinstance(value, torch.device):
        return {"device": str(value)}
    # the types before the values, because not every value can be compared
    kind = {torch.dtype: "dtype", torch.memory_format: "memory_format", torch.layout: "layout"}.get(type(value))
    if value is ... or (kind and (kind, value) in _BACK):
        kind = kind or "constant"
        return {kind: _BACK[kind, value]}
    return other(value)


def decode(value: object, other: Callable[[str, Any], object] | None = None, depth: int = 0) -> Any:
    """
    :param value: what :func:`encode` gave, from a file that may be damaged
    :param other: ``(name, JSON) -> value`` for what the other function of :func:`encode` made
    :return: the value
    :raises FileError: if it is nothing that :func:`encode` gives
    """
    if depth > DEPTH:
        raise FileError("its values are nested too deep")

    def inner(item: object) -> Any:
        return decode(item, other, depth + 1)

    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, list):
        return [inner(item) for item in value]
    if not (isinstance(value, dict) and len(value) == 1):
        raise FileError("a value is damaged")
    ((kind, content),) = value.items()
    if kind == "tuple":
        return tuple(map(inner, content))
    if kind == "size":
        return torch.Size(map(inner, content))
    if kind == "dict":
        return {inner(key): inner(item) for key, item in content}
    if kind == "slice":
        start, stop, step = map(inner, content)
        return slice(start, stop, step)
    if kind == "complex":
        return complex(*map(inner, content))
    if kind == "device" and re.fullmatch(r"[a-z]{1,20}(:\d{1,3})?", content):
        return torch.device(content)
    if kind in _CONSTANTS and isinstance(content, str) and content in _CONSTANTS[kind]:
        return _CONSTANTS[kind][content]
    if other is None:
        raise FileError(f"a value of the unknown kind {kind!r}")
    return other(kind, content)


def need(holds: object, words: str) -> None:
    """:raises FileError: with these ``words``, unless ``holds``"""
    if not holds:
        raise FileError(words)


def strings(value: object) -> list[str]:
    """``value``, a list of strings; :raises FileError: if it is none"""
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise FileError("a list of names is damaged")
    return value
