"""The first batch, which decides much, is the same for all ranks; and a rank without data gets a sample of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ... import ranks
from ...errors import DataError
from ...torch_compat import tree_leaves, tree_map
from ...user_warnings import warn


class SharedFirst:
    """
    The first batch of the first rank that has one. A rank whose loader is empty takes one of its last samples, which
    that rank leaves out: so each has something to run, and no sample counts twice.

    :param own: this rank's first batch in a list, which is empty if there is none
    :raises DataError: if no rank has a batch, or there are more ranks without one than samples to give away
    """

    def __init__(self, own: list[object]) -> None:
        found = ranks.objects((_size(own[0]), _digests(own[0])) if own else (0, None))
        sizes = [size for size, _ in found]
        giver = next((rank for rank, size in enumerate(sizes) if size), None)
        if giver is None:
            raise DataError("dataloader is empty: it has to give at least one batch")
        shared: Any = own if ranks.count() == 1 else ranks.object_of(_on_cpu(own), giver)
        self.batch: object = shared[0]
        if len(sizes) > 1 and found.count(found[0]) == len(sizes) and ranks.leads():
            warn(
                "all processes have the same first batch, so they seem to read the same data, and take as long as one. "
                "Give each its share, as with torch.utils.data.DistributedSampler"
            )
        waiting = [rank for rank, size in enumerate(sizes) if not size]
        kept = sizes[giver] - len(waiting)
        if kept < 1:
            raise DataError(
                f"dataloader is empty in {len(waiting)} of {ranks.count()} processes, and the first batch of process "
                f"{giver} has {sizes[giver]} samples to share. Give each process a batch, or start fewer"
            )
        self._change: slice | None = None  # what this rank takes of its first batch, or of the shared one
        if waiting and ranks.number() == giver:
            self._change = slice(0, kept)
        elif ranks.number() in waiting:
            start = kept + waiting.index(ranks.number())
            self._change = slice(start, start + 1)

    def applied(self, batches: Iterator[object]) -> Iterator[object]:
        """:param batches: of this rank's loader. :return: those that it works on"""
        return batches if self._change is None else self._changed(batches, self._change)

    def _changed(self, batches: Iterator[object], change: slice) -> Iterator[object]:
        yield _rows(next(batches, self.batch), change)
        yield from batches


def _size(batch: object) -> int:
    return max(1, next((len(x) for x in tree_leaves(batch) if isinstance(x, Tensor) and x.dim()), 1))


def _digests(batch: object) -> list[bytes]:
    return [ranks.digest(x) for x in tree_leaves(batch) if isinstance(x, Tensor)] if ranks.count() > 1 else []


def _rows(batch: object, rows: slice) -> object:
    size = _size(batch)
    return tree_map(lambda x: x[rows] if isinstance(x, Tensor) and x.dim() and len(x) == size else x, batch)


def _on_cpu(batch: object) -> object:
    return tree_map(lambda x: x.detach().to(torch.device("cpu")) if isinstance(x, Tensor) else x, batch)
