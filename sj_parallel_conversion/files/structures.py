"""
How nested values are built, as JSON and back.

Tuples, lists, dicts, ordered dicts and sizes come back as they are. The model's own types (named tuples, dataclasses,
what ``transformers`` returns) need their class. Without it a tuple or an ordered dict takes their place.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor

from ..ann2snn.data.structure import SizePlace, Structure, flatten
from ..errors import FileError
from ..user_warnings import warn
from .values import DTYPES, Record, decode, encode, need, no_more


class _Leaf:
    """Marks the place of a leaf."""


class Classes:
    """
    The types that a reader has given.

    :param given: the classes
    """

    def __init__(self, given: tuple[type, ...] = ()) -> None:
        self._given = {full_name(kind): kind for kind in given}
        self.replaced: dict[str, str] = {}  # what stands in the place of types that are not there

    def build(self, name: str, kind: str, content: Any) -> object:
        """
        :param name: of a class
        :param kind: ``"tuple"``, ``"named"`` (a named tuple) or ``"fields"``
        :param content: its values: a list, or a dict
        :return: the value
        """
        cls = self._given.get(name)
        if cls is None:
            self.replaced[name] = "tuple" if kind != "fields" else "OrderedDict"
            return tuple(content) if kind != "fields" else OrderedDict(content)
        if kind == "fields" and is_dataclass(cls) and not issubclass(cls, Mapping):
            return _new_dataclass(cls, content)
        if kind == "fields":
            return cls(**content)
        return cls(*content) if kind == "named" else cls(content)

    def warn(self) -> None:
        """Say which types are not there."""
        for name, other in self.replaced.items():
            warn(
                f"the network takes or returns {other} in the place of {name}: its class is not in the file. Give it, "
                f"load(path, classes=[{name.rpartition('.')[2]}])"
            )


def _new_dataclass(cls: Any, content: dict[str, object]) -> object:
    # not its __init__, which may compute or refuse fields
    new: Any = object.__new__(cls)
    for name in (field.name for field in fields(cls)):
        object.__setattr__(new, name, content[name])
    return new


def full_name(thing: Any) -> str:
    """The full name of a class or a function."""
    return f"{thing.__module__}.{thing.__qualname__}"


def encode_structure(structure: Structure) -> object:
    """:return: JSON. :raises FileError: if a type in it has no form in a file"""
    return _encode(structure.unflatten([_Leaf()] * structure.leaves))


def _encode(value: Any) -> object:
    if isinstance(value, _Leaf):
        return {"leaf": None}
    if type(value) in (list, dict, tuple, OrderedDict):
        if type(value) is list:
            return [_encode(item) for item in value]
        if type(value) is tuple:
            return {"tuple": [_encode(item) for item in value]}
        kind = "dict" if type(value) is dict else "ordered"
        return {kind: [[encode(key), _encode(item)] for key, item in value.items()]}
    if isinstance(value, (torch.Size, SizePlace)):
        return {"size_of": [_encode(item) for item in value]}
    if isinstance(value, tuple):
        return _own(value, "named" if hasattr(value, "_fields") else "tuple", [_encode(item) for item in value])
    pairs: Iterable[tuple[Any, Any]] | None = None
    if isinstance(value, Mapping):
        pairs = value.items()
    elif is_dataclass(value):
        pairs = ((field.name, getattr(value, field.name)) for field in fields(value))
    if pairs is None:
        return no_more(value)
    return _own(value, "fields", [[encode(key), _encode(item)] for key, item in pairs])


def _own(value: object, kind: str, content: list[Any]) -> dict[str, object]:
    return {"own": {"class": full_name(type(value)), "kind": kind, "content": content}}


def decode_structure(record: object, classes: Classes) -> Structure:
    """
    :param record: of :func:`encode_structure`, from a file that may be damaged
    :param classes: what the reader has given
    :return: the structure
    """

    def other(kind: str, content: Any) -> object:
        """What :func:`decode` does not know: a leaf, an ordered dict, a size, a type of the reader's own."""
        if kind == "leaf":
            return _Leaf()
        if kind == "ordered":
            return OrderedDict((decode(key), decode(item, other)) for key, item in content)
        if kind == "size_of":
            return SizePlace(decode(item, other) for item in content)
        need(kind == "own", f"its inputs or outputs have the unknown form {kind!r}")
        name, how, items = content["class"], content["kind"], content["content"]
        need(isinstance(name, str) and how in ("tuple", "named", "fields"), "its inputs or outputs are damaged")
        if how != "fields":
            return classes.build(name, how, [decode(item, other) for item in items])
        return classes.build(name, how, {decode(key): decode(item, other) for key, item in items})

    leaves, structure = flatten(decode(record, other))
    need(all(isinstance(leaf, _Leaf) for leaf in leaves), "its inputs or outputs are damaged")
    return structure


def encode_sample(x: Tensor) -> Record:
    """A tensor without values as JSON."""
    return {"shape": list(x.shape), "dtype": encode(x.dtype)}


def decode_sample(record: Record) -> Tensor:
    """The tensor of :func:`encode_sample`, on the device ``meta``: none of its values are there."""
    dtype = decode(record["dtype"])
    need(dtype in DTYPES.values(), "the form of its inputs is damaged")
    return torch.empty(record["shape"], dtype=dtype, device="meta")


def encode_constants(leaves: list[object], names: list[str] | None = None) -> list[object]:
    """What is no tensor among arguments or outputs. :raises FileError: if one of them has no form in a file"""
    found = []
    for i, leaf in enumerate(leaves):
        try:
            found.append(encode(leaf))
        except FileError as error:
            where = f"argument {names[i]!r}" if names else "an output"
            hint = "" if names else ". Convert the model so that it returns tensors (a language model: use_cache=False)"
            raise FileError(f"{where}: {error}{hint}") from error
    return found
