"""The user's dataloader, as batches that can be read again and again. Its own errors stay what they are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, IterableDataset

from ...errors import DataError, SJPCError
from ...user_warnings import warn
from .memory import available_memory, size_of
from .seeded import SeededLoader
from .sharing import SharedFirst

_MANY = 1_000  # batches of a dataloader without a length, after which a warning says that it may be endless
_MOST_KEPT = 10_000  # batches of an iterator, after which it counts as endless
_HINT = "If it is endless, set max_batches to the number of batches to calibrate with"


def checked(dataloader: Iterable[Any] | None) -> Iterable[Any]:
    """
    :param dataloader: what the user gave
    :return: the same
    :raises DataError: if it is None, not iterable, or yields samples instead of batches
    """
    if dataloader is None:
        raise DataError(
            "dataloader=None: conversion needs calibration data (some tens to thousands of unlabelled inputs, such "
            "as a DataLoader of training images) to choose thresholds"
        )
    if isinstance(dataloader, Dataset) and not isinstance(dataloader, IterableDataset):
        raise DataError(
            f"dataloader is a Dataset ({type(dataloader).__name__}), which yields samples without the batch axis; give "
            "torch.utils.data.DataLoader(dataset, batch_size=64)"
        )
    if isinstance(dataloader, nn.Module):
        raise DataError(
            f"dataloader is a model ({type(dataloader).__name__}). The converter takes the data, and its convert takes "
            "the model: ParallelConverter(dataloader).convert(model)"
        )
    readable = isinstance(dataloader, Iterable) or hasattr(dataloader, "__getitem__")
    if isinstance(dataloader, (Tensor, Mapping, str, type)) or not readable:
        raise DataError(
            f"dataloader must be an iterable of batches, got {type(dataloader).__name__}; wrap one batch x as [x]"
        )
    return dataloader


def replayable(dataloader: Iterable[Any] | None) -> Iterable[Any]:
    """
    :param dataloader: what the user gave
    :return: the same, or its batches, read when they are needed, if it is an iterator that can be read only once
    :raises DataError: as :func:`checked`
    """
    batches = checked(dataloader)
    return _KeptBatches(batches) if isinstance(batches, Iterator) else batches


class Batches:
    """Batches, as a dataloader yields them, that can be read again. The first batch is kept."""

    @property
    def length(self) -> int | None:
        """How many batches there are; ``None`` if it is not known."""
        return None

    def first(self) -> object:
        """The same each time. :raises DataError: if there is none"""
        raise NotImplementedError

    def __iter__(self) -> Iterator[object]:
        raise NotImplementedError


class Source(Batches):
    """
    The batches of a dataloader. It is started once for each reading, and not once more for the first batch, which the
    first reading begins with: a dataloader that shuffles would give another.

    :param dataloader: any iterable of batches
    :param max_batches: how many batches are read; ``None``: all
    :param seed: of what the dataloader draws, as :class:`~.seeded.SeededLoader`; ``None``: it draws as it does
    :raises DataError: as :func:`replayable`
    """

    def __init__(
        self, dataloader: Iterable[Any] | None, max_batches: int | None = None, seed: int | None = None
    ) -> None:
        self._loader, self._max_batches = replayable(dataloader), max_batches
        self._readable = self._loader if seed is None else SeededLoader(self._loader, seed)
        self._found: list[object] = []  # the first batch
        self._shared: SharedFirst | None = None  # that of all ranks
        self._rest: Iterator[object] | None = None  # of the reading that has begun with it

    @classmethod
    def of(cls, dataloader: Iterable[Any] | None) -> Batches:
        """``dataloader`` itself, if it is one of :class:`Batches`."""
        return dataloader if isinstance(dataloader, Batches) else cls(dataloader)

    @property
    def length(self) -> int | None:
        """As of :class:`Batches`."""
        loader: Any = self._loader  # not every iterable has a length
        try:
            length = len(loader)
        except (TypeError, AttributeError, NotImplementedError):
            return None
        return length if self._max_batches is None else min(length, self._max_batches)

    def first(self) -> object:
        """The first batch, the same each time, and for all ranks. :raises DataError: if there is none"""
        return self._begun().batch

    def _begun(self) -> SharedFirst:
        if self._shared is None:
            self._rest = self._read()
            self._found = list(islice(self._rest, 1))
            self._shared = SharedFirst(self._found)
        return self._shared

    def __iter__(self) -> Iterator[object]:
        """:raises DataError: if there are no batches, or none any more"""
        shared = self._begun()
        rest, self._rest = self._rest, None
        return shared.applied(self._read_again() if rest is None else chain(self._found, rest))

    def _read_again(self) -> Iterator[object]:
        batch: object = self
        for batch in self._read():
            yield batch
        if batch is self and self._found:
            raise DataError(
                f"dataloader can be read only once: the {type(self._loader).__name__} gave batches at first, and none "
                "when it was read again, as calibrations do. Give a DataLoader, a list of batches, or the iterator "
                "itself, whose batches are then kept"
            )

    def _read(self) -> Iterator[object]:
        iterator, count = None, 0
        while self._max_batches is None or count < self._max_batches:
            try:
                iterator = iter(self._readable) if iterator is None else iterator
                batch = next(iterator)
            except StopIteration:
                return
            except SJPCError:
                raise
            except Exception as error:
                _add_note(error, f"This is an error of the dataloader itself, which was to give batch {count}.")
                raise
            yield batch
            count += 1
            if self._max_batches is None and self.length is None:
                self._look_for_the_end(count)

    def _look_for_the_end(self, count: int) -> None:
        read = f"dataloader has no length, and {count} batches of it were read"
        if count == _MOST_KEPT and isinstance(self._loader, _KeptBatches):
            raise DataError(f"{read}, which are kept, because it is an iterator and can be read only once. {_HINT}")
        if count == _MANY:
            warn(f"{read} without coming to its end. {_HINT}")


class _KeptBatches:
    """The batches of an iterator, which are kept as they are read: it gives them only once."""

    def __init__(self, iterator: Iterator[Any]) -> None:
        self._iterator = iterator
        self._batches: list[object] = []
        self._ended = self._broken = False
        self._room = available_memory(torch.device("cpu")) / 2

    def __iter__(self) -> Iterator[object]:
        count = 0
        while count < len(self._batches) or self._reads_one_more():
            yield self._batches[count]
            count += 1

    def _reads_one_more(self) -> bool:
        if self._broken:
            raise DataError(
                "dataloader is an iterator, and an error or an interruption has ended it before its last batch. Give a "
                "new one"
            )
        if self._ended:
            return False
        self._broken = True  # unless the next lines are passed: a generator that fails gives nothing more
        batch = next(self._iterator, self)
        self._broken, self._ended = False, batch is self
        if self._ended:
            return False
        self._room -= size_of(batch)
        if self._room < 0:
            raise DataError(
                f"dataloader is an iterator, whose batches are kept because it can be read only once. The "
                f"{len(self._batches)} so far take half of the memory. {_HINT}, or give a DataLoader, which can be "
                "read again"
            )
        self._batches.append(batch)
        return True


def _add_note(error: Exception, note: str) -> None:
    if note not in getattr(error, "__notes__", []):
        error.add_note(note)
