"""Values of many batches, of which those that do not fit into memory wait in temporary files."""

from __future__ import annotations

import itertools
import os
import tempfile
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from ...errors import ConfigError
from ...torch_compat import tree_map_only
from .memory import available_memory, size_of

T = TypeVar("T")
GIB = 2**30
_USUAL = GIB  # without a limit of the user's: so that a conversion takes no more memory for more images


class Spool:
    """
    Keeps values, in memory up to a limit and in files beyond it. The files go when the values are no longer needed.
    One of them serves all that a conversion keeps, so that it has one limit.

    :param max_memory: GiB that the values may take in memory; ``None``: half of what is free when the first value
        comes, on a CPU one GiB at most
    :param device: where the values are
    """

    def __init__(self, max_memory: float | None = None, device: torch.device | None = None) -> None:
        self._free = None if max_memory is None else max_memory * GIB
        self._device = torch.device("cpu") if device is None else device
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._numbers = itertools.count()

    def keep(self, values: Iterable[T]) -> Spooled[T]:
        """
        :param values: tensors, or tuples and the like of tensors, one a batch; taken one by one
        :return: the same as a sequence
        """
        return Spooled(self, values)

    def put(self, value: object) -> object:
        """
        Store ``value``; what is returned is read by :meth:`get` and given up by :meth:`drop`.

        :raises ConfigError: if it does not fit into memory, and no temporary file can be written
        """
        size = size_of(value)
        if self._free is None:
            self._free = available_memory(self._device) / 2
            if self._device.type == "cpu":
                self._free = min(self._free, _USUAL)
        if size <= self._free:
            self._free -= size
            return value
        value = tree_map_only(Tensor, _compact, value)
        try:
            if self._folder is None:
                self._folder = tempfile.TemporaryDirectory(prefix="sj_parallel_conversion_")
            path = Path(self._folder.name, str(next(self._numbers)))
            torch.save(value, path)
        except (OSError, RuntimeError) as error:  # torch has no error of its own for a full disk
            raise ConfigError(
                f"values beyond max_memory wait in temporary files, and {size / GIB:.3g} GiB cannot be written to the "
                f"folder {_temporary_folder()}: it is full or missing ({str(error).splitlines()[0]}). Set the "
                "environment variable TMPDIR to a folder with room, or a larger max_memory"
            ) from error
        return _File(path)

    @staticmethod
    def get(stored: object) -> Any:
        """The value behind ``stored``."""
        if not isinstance(stored, _File):
            return stored
        # Mapped, not read: a copy of large values takes as long as a layer. Windows cannot remove what is mapped.
        return torch.load(stored.path, weights_only=False, mmap=os.name == "posix")

    def close(self) -> None:
        """Remove all files, also while someone (a debugger, a traceback) still holds values."""
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def drop(self, stored: object) -> None:
        """Make room for others."""
        if isinstance(stored, _File):
            stored.path.unlink(missing_ok=True)
        elif self._free is not None:
            self._free += size_of(stored)


@dataclass(frozen=True)
class _File:
    """Where a value is that has no room in memory."""

    path: Path


class Spooled(Generic[T]):
    """
    A sequence of values, one a batch.

    :param spool: where they are kept
    :param values: what to keep
    """

    def __init__(self, spool: Spool, values: Iterable[T]) -> None:
        self._spool = spool
        self._stored: list[object] = []
        weakref.finalize(self, _drop_all, spool, self._stored)
        for value in values:
            self.append(value)

    def __len__(self) -> int:
        return len(self._stored)

    def append(self, value: T) -> None:
        """Keep one more."""
        self._stored.append(self._spool.put(value))

    def __getitem__(self, index: int) -> T:
        return self._spool.get(self._stored[index])

    def __setitem__(self, index: int, value: T) -> None:
        self._spool.drop(self._stored[index])
        self._stored[index] = self._spool.put(value)

    def __iter__(self) -> Iterator[T]:
        return (self[index] for index in range(len(self)))


def _drop_all(spool: Spool, stored: list[object]) -> None:
    for value in stored:
        spool.drop(value)


def _compact(x: Tensor) -> Tensor:
    """Of a view, its own part of the memory: a file would hold all of it."""
    return x.clone() if x.untyped_storage().nbytes() > x.numel() * x.element_size() else x


def _temporary_folder() -> str:
    try:
        return tempfile.gettempdir()
    except OSError:  # none of the usual ones can be written to
        return os.environ.get("TMPDIR", "of this machine")
