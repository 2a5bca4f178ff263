"""Nested values, such as a dict of lists of tensors, as a flat list of leaves and back."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

import torch

from ...torch_compat import TreeSpec, tree_flatten, tree_unflatten


class SizePlace(tuple[Any, ...]):
    """Stands for a ``torch.Size`` that holds other things than numbers, such as the names of its leaves."""


class Structure:
    """
    How the leaves of a value hang together: tuples, lists, dicts, whatever torch's pytrees know, dataclasses and
    ``torch.Size``.

    :param spec: of torch's pytree
    :param dataclasses: those of its leaves that are dataclasses or sizes, by their number: class, names of the fields,
        and the structure of the list of their values
    """

    def __init__(self, spec: TreeSpec, dataclasses: dict[int, tuple[type, list[str], Structure]]) -> None:
        self.spec, self.dataclasses = spec, dataclasses
        inner = sum(structure.leaves - 1 for _, _, structure in dataclasses.values())
        self.leaves: int = spec.num_leaves + inner

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Structure):
            return False
        return self.spec == other.spec and self.dataclasses == other.dataclasses

    def unflatten(self, leaves: list[Any]) -> Any:
        """:param leaves: as :func:`flatten` gave them, or others in their places. :return: the value"""
        rest, outer = iter(leaves), []
        for i in range(self.spec.num_leaves):
            if i in self.dataclasses:
                kind, names, structure = self.dataclasses[i]
                values = structure.unflatten([next(rest) for _ in range(structure.leaves)])
                outer.append(_new_size(values) if kind is torch.Size else _new_dataclass(kind, names, values))
            else:
                outer.append(next(rest))
        return tree_unflatten(outer, self.spec)


def flatten(value: object) -> tuple[list[object], Structure]:
    """
    :param value: a tensor, or any nested value
    :return: its leaves in order, and what makes the value of them again
    """
    # torch's pytrees would give a tuple back for a size
    outer, spec = tree_flatten(value, is_leaf=_is_size)
    leaves: list[object] = []
    dataclasses: dict[int, tuple[type, list[str], Structure]] = {}
    for i, leaf in enumerate(outer):
        if _is_size(leaf):
            inner, structure = flatten(list(leaf))
            dataclasses[i] = (torch.Size, [], structure)
            leaves += inner
        elif is_dataclass(leaf) and not isinstance(leaf, type):
            names = [field.name for field in fields(leaf)]
            inner, structure = flatten([getattr(leaf, name) for name in names])
            dataclasses[i] = (type(leaf), names, structure)
            leaves += inner
        else:
            leaves.append(leaf)
    return leaves, Structure(spec, dataclasses)


def of_a_leaf() -> Structure:
    """The structure of a value that is not nested."""
    return flatten(None)[1]


def _is_size(value: object) -> bool:
    return isinstance(value, (torch.Size, SizePlace))


def _new_size(values: list[Any]) -> tuple[Any, ...]:
    return torch.Size(values) if all(isinstance(v, (int, torch.SymInt)) for v in values) else SizePlace(values)


def _new_dataclass(kind: type, names: list[str], values: list[object]) -> object:
    # not its __init__, which may compute or refuse fields
    new: Any = object.__new__(kind)
    for name, value in zip(names, values, strict=True):
        object.__setattr__(new, name, value)
    return new
