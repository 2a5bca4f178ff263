"""Which sizes of the inputs are free, which the ANN fixes, and what else it takes for granted about them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.export import ExportedProgram

from ...errors import DataError
from ...torch_compat import expression, python_code, size_conditions, symbols
from ..data.inputs import Batch


@dataclass
class Sizes:
    """
    The sizes that a captured network takes.

    :param names: of the inputs
    :param sizes: of each input, axis by axis: a number, or the name of a free size
    :param conditions: Python expressions of free sizes that have to be true, each with the names in it
    :param batch: the name of the number of samples, if that is free
    :param smallest_batch: 2 where the network does not run on one sample as the ANN does
    """

    names: list[str]
    sizes: list[tuple[int | str, ...]]
    conditions: list[tuple[str, list[str]]]
    batch: str | None
    smallest_batch: int = 1
    _accepted: set[tuple[Any, ...]] = field(default_factory=set, repr=False, compare=False)

    @property
    def fixed_batch(self) -> bool:
        """Whether batches of one size alone are taken."""
        return self.batch is None

    @property
    def fixed(self) -> list[str]:
        """The axes with fixed sizes, such as ``x.shape[2] = 224``, but those of the channels and features."""
        found = []
        for name, sizes in zip(self.names, self.sizes, strict=True):
            inner = range(2, len(sizes)) if len(sizes) > 3 else range(1, max(len(sizes) - 1, 0))
            found += [f"{name}.shape[{i}] = {sizes[i]}" for i in inner if isinstance(sizes[i], int)]
        return found

    def left_out(self, batch: Batch, most: int) -> Iterator[Batch]:
        """
        :param batch: an example
        :param most: values that an example may have
        :return: the same with sizes that a condition leaves out, while it takes those next to them
        """
        for condition, names in list(self.conditions):
            for size in {int(number) for number in re.findall(r"\b\d+\b", condition)}:
                near = [_holds(condition, dict.fromkeys(names, size + step)) for step in (-1, 0, 1)]
                if len(names) == 1 and near == [True, False, True] and self._values(batch, names[0], size) <= most:
                    yield self._resized(batch, names[0], size)

    def _values(self, batch: Batch, name: str, size: int) -> int:
        """How many values ``batch`` has with so much along the axes of one free size."""
        shapes = [zip(x.shape, sizes, strict=True) for x, sizes in zip(batch.tensors, self.sizes, strict=True)]
        return sum(math.prod(size if known == name else given for given, known in shape) for shape in shapes)

    def _resized(self, batch: Batch, name: str, size: int) -> Batch:
        """``batch`` with so much along the axes of one free size. What is there is cut or repeated."""
        tensors = list(batch.tensors)
        for i, sizes in enumerate(self.sizes):
            for axis in [axis for axis, known in enumerate(sizes) if known == name]:
                numbers = torch.arange(size, device=tensors[i].device) % tensors[i].shape[axis]
                tensors[i] = tensors[i].index_select(axis, numbers)
        return Batch(tuple(tensors), batch.batched)

    def allow(self, batch: Batch) -> None:
        """
        Forget conditions that a batch contradicts for which the network is known to give the ANN's result. They come
        from sizes that the ANN has kept of an earlier call, and compares with those of the next.
        """
        values = {
            size: given
            for x, sizes in zip(batch.tensors, self.sizes, strict=True)
            for given, size in zip(x.shape, sizes, strict=True)
            if isinstance(size, str)
        }
        self.conditions = [(c, names) for c, names in self.conditions if _holds(c, values)]

    def check(self, batch: Batch) -> None:
        """:raises DataError: if a size is another than the one that the network was captured with; it is named"""
        if torch.compiler.is_dynamo_compiling():  # which has guards of its own, and cannot evaluate expressions
            return
        shapes = tuple(tuple(x.shape) for x in batch.tensors)
        if shapes not in self._accepted:
            self._check(shapes)
            self._accepted.add(shapes)

    def _check(self, shapes: tuple[tuple[int, ...], ...]) -> None:
        values: dict[str, int] = {}
        for name, shape, sizes in zip(self.names, shapes, self.sizes, strict=True):
            for axis, (given, size) in enumerate(zip(shape, sizes, strict=True)):
                self._check_axis(f"{name}.shape[{axis}]", given, size, values)
        if self.batch is not None and 0 < values[self.batch] < self.smallest_batch:
            raise DataError("the network takes batches of two samples or more: on one sample the ANN does other things")
        for condition, names in self.conditions:
            self._check_condition(condition, names, values)

    def _check_axis(self, axis: str, given: int, size: int | str, values: dict[str, int]) -> None:
        expected = size if isinstance(size, int) else values.setdefault(size, given)
        if given != expected:
            reason = self._fixes(axis) if isinstance(size, int) else "another input has that size"
            raise DataError(f"{axis} is {given}, and has to be {expected}: {reason}")

    def _fixes(self, axis: str) -> str:
        if self.batch is not None or not axis.endswith("[0]"):
            return "the ANN fixes it"
        return "the ANN fixes it, as a number in reshape or a loop over samples does"

    def _check_condition(self, condition: str, names: list[str], values: dict[str, int]) -> None:
        if _holds(condition, values):
            return
        # The capture takes it for granted that there are two samples or more. One sample was tried.
        if self.batch in names and values[self.batch] < 2 and _holds(condition, values | {self.batch: 2}):
            return
        where = {size: f"{n}.shape[{i}]" for n, sizes in zip(self.names, self.sizes, strict=True)
                 for i, size in reversed(list(enumerate(sizes)))}  # fmt: skip
        words = condition
        for name in sorted(names, key=len, reverse=True):
            words = words.replace(name, where.get(name, name))
        given = ", ".join(f"{where.get(name, name)} is {values[name]}" for name in names)
        raise DataError(
            f"{given}, and the captured network holds only where {words}. Convert with calibration data of the size "
            "that you need"
        )

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_accepted": set()}


def _holds(condition: str, values: dict[str, int]) -> bool:
    try:
        return bool(eval(condition, {"math": math, "__builtins__": {"min": min, "max": max, "abs": abs}}, dict(values)))
    except ZeroDivisionError:  # a map is empty, which it is not in the capture
        return False


def sizes_of(program: ExportedProgram, names: list[str], batched: tuple[bool, ...]) -> Sizes:
    """
    :param program: a captured model
    :param names: of its inputs
    :param batched: which of them have the batch axis
    :return: its sizes
    """
    user = set(program.graph_signature.user_inputs)
    shapes = [n.meta["val"].shape for n in program.graph.nodes if n.op == "placeholder" and n.name in user]
    sizes = [tuple(_name_or_number(expression(size)) for size in shape) for shape in shapes]
    first = next((s[0] for s, b in zip(sizes, batched, strict=True) if b), None)
    known = {size for shape in sizes for size in shape if isinstance(size, str)}
    found = {python_code(c): symbols(c) for c in size_conditions(program)}
    conditions = [(condition, used) for condition, used in found.items() if used and known.issuperset(used)]
    return Sizes(names, sizes, conditions, first if isinstance(first, str) else None)


def _name_or_number(size: Any) -> int | str:
    return size if isinstance(size, int) else int(size) if getattr(size, "is_Integer", False) else str(size)
