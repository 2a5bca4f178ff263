"""The names of a network's inputs and outputs, flat."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

from ..ann2snn.graph.signature import Signature


def input_names(signature: Signature) -> list[str]:
    """The names of the tensors among the arguments, with dots for what is nested: ``features.0``."""
    form = signature.form
    named = form.structure.unflatten(list(range(len(form.is_tensor))))
    if "*" in named:
        named["inputs"] = named.pop("*")
    names = {leaf: name for name, leaf in _names(named) if form.is_tensor[leaf]}
    return [names[leaf] for leaf in sorted(names)]


def output_names(signature: Signature) -> list[str]:
    """The names of the tensors that are returned; ``output`` where there are no names."""
    outputs = signature.outputs
    if outputs.is_one_tensor:
        return ["output"]
    value = outputs.structure.unflatten(list(range(len(outputs.is_tensor))))
    start = "" if isinstance(value, dict) or is_dataclass(value) or hasattr(value, "_fields") else "output"
    names = {leaf: name for name, leaf in _names(value, start) if outputs.is_tensor[leaf]}
    return [names[leaf] for leaf in sorted(names)]


def _names(value: Any, name: str = "") -> Iterator[tuple[str, int]]:
    if isinstance(value, int):
        yield name, value
        return
    pairs: list[tuple[Any, Any]]
    if isinstance(value, dict):
        pairs = list(value.items())
    elif hasattr(value, "_fields"):
        pairs = list(zip(value._fields, value, strict=True))
    elif is_dataclass(value):
        pairs = [(field.name, getattr(value, field.name)) for field in fields(value)]
    else:
        pairs = list(enumerate(value))
    for key, inner in pairs:
        yield from _names(inner, f"{name}.{key}" if name else str(key))
