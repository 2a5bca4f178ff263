"""Values of many batches, of which those that do not fit into memory wait in temporary files."""

from __future__ import annotations

import itertools
import tempfile
import weakref
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from ...torch_compat import tree_leaves, tree_map_only

GIB = 2**30


class Spool:
    """
    Keeps values, in memory up to a limit and in files beyond it. The files go when the values are no longer needed.

    :param max_memory: GiB that the values may take in memory; ``None``: no limit
    """

    def __init__(self, max_memory: float | None = None) -> None:
        self._free = float("inf") if max_memory is None else max_memory * GIB
        self._folder: tempfile.TemporaryDirectory | None = None
        self._numbers = itertools.count()

    def keep(self, values: Iterable[object]) -> Spooled:
        """
        :param values: tensors, or tuples and the like of tensors, one a batch; taken one by one
        :return: the same as a sequence
        """
        return Spooled(self, values)

    def put(self, value: object) -> object:
        """Store ``value``; what is returned is read by :meth:`get` and given up by :meth:`drop`."""
        size = _size(value)
        if size <= self._free:
            self._free -= size
            return value
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="sj_parallel_conversion_")
        path = _File(self._folder.name, str(next(self._numbers)))
        torch.save(tree_map_only(Tensor, _compact, value), path)
        return path

    @staticmethod
    def get(stored: object) -> object:
        """The value behind ``stored``."""
        return torch.load(stored, weights_only=False) if isinstance(stored, _File) else stored

    def close(self) -> None:
        """Remove all files, also while someone (a debugger, a traceback) still holds values."""
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def drop(self, stored: object) -> None:
        """Make room for others."""
        if isinstance(stored, _File):
            stored.unlink(missing_ok=True)
        else:
            self._free += _size(stored)


class _File(type(Path())):
    """A path that is no value."""


class Spooled:
    """
    A sequence of values, one a batch.

    :param spool: where they are kept
    :param values: what to keep
    """

    def __init__(self, spool: Spool, values: Iterable[object]) -> None:
        self._spool = spool
        self._stored: list[object] = []
        weakref.finalize(self, _drop_all, spool, self._stored)
        for value in values:
            self.append(value)

    def __len__(self) -> int:
        return len(self._stored)

    def append(self, value: object) -> None:
        """Keep one more."""
        self._stored.append(self._spool.put(value))

    def __getitem__(self, index: int) -> object:
        return self._spool.get(self._stored[index])

    def __setitem__(self, index: int, value: object) -> None:
        self._spool.drop(self._stored[index])
        self._stored[index] = self._spool.put(value)

    def __iter__(self) -> Iterator[object]:
        return (self[index] for index in range(len(self)))


def _drop_all(spool: Spool, stored: list[object]) -> None:
    for value in stored:
        spool.drop(value)


def _compact(x: Tensor) -> Tensor:
    """Of a view, its own part of the memory: a file would hold all of it."""
    return x.clone() if x.untyped_storage().nbytes() > x.numel() * x.element_size() else x


def _size(value: object) -> int:
    return sum(x.numel() * x.element_size() for x in tree_leaves(value) if isinstance(x, Tensor))
