"""The data of :func:`~.fine_tune.fine_tune`: calls with their targets, and some of the samples held out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sized
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from .. import ranks
from ..analysis.answers import Network, targets_of
from ..ann2snn.calibration.held_out import bytes_of_samples
from ..ann2snn.data.inputs import Batch, Call
from ..ann2snn.data.source import checked, replayable
from ..errors import DataError
from ..torch_compat import tree_leaves, tree_map

_EVERY, _MOST = 8, 512  # one sample in eight is held out, at most so many


@dataclass
class Sample:
    """
    Some samples as a network is called with them.

    :param call: the arguments
    :param target: what the loader gives beside them, or ``None``
    :param size: how many samples there are; 1 where the batch cannot be divided
    """

    call: Call
    target: object
    size: int

    def select(self, mask: Tensor) -> Sample:
        """Those that ``mask`` ``[size]`` marks."""

        def chosen(x: Any) -> object:
            batched = isinstance(x, Tensor) and x.dim() and len(x) == self.size
            return x[mask.to(x.device)] if batched else x

        return Sample(Call(*tree_map(chosen, tuple(self.call))), tree_map(chosen, self.target), int(mask.sum()))


class TuningData:
    """
    Reads a loader anew for each epoch, without the samples that are held out.

    A sample that is held out is known by its content. So a loader may shuffle. A loader that changes its samples at
    random hardly gives the same one twice: give held-out data of their own then.

    Each rank has its share of the samples, and ``batches`` is the number of the rank with most of them.

    :param network: takes the batches
    :param dataloader: can be read several times
    :param held_out: a loader of samples to check with; ``None``: one in eight of the others, at most 512
    :param seed: of the choice
    :param show_progress: whether a progress bar is drawn
    :raises DataError: if there is nothing to train on
    """

    def __init__(
        self,
        network: Network,
        dataloader: Iterable[Any],
        held_out: Iterable[Any] | None,
        seed: int,
        show_progress: bool,
    ) -> None:
        self._network, self._source = network, replayable(dataloader)
        self._digests: set[bytes] = set()
        self.batches, self.held = 0, []
        hidden = not (show_progress and ranks.leads())
        bar = tqdm(self._read(self._source), desc="choose held-out samples", disable=hidden, leave=False)
        if held_out is None:
            self._choose(bar, seed)
        else:
            self.batches = len(dataloader) if isinstance(dataloader, Sized) else sum(1 for _ in bar)
            self.held = list(self._read(checked(held_out)))
        # what one rank holds out another must not train on: shards may change with each epoch
        self._digests = set().union(*ranks.objects(self._digests))
        self.batches = int(ranks.largest(torch.tensor(self.batches)))
        if not self.batches:
            raise DataError("dataloader is empty: fine_tune needs at least one batch")
        if not ranks.any_of(bool(self.held)):
            raise DataError(
                "dataloader has too few samples to hold one out: fine_tune needs eight or more, or held_out=, a loader "
                "of other samples"
            )

    def epoch(self) -> Iterator[Sample]:
        """The samples to train on, batch by batch."""
        for sample in self._read(self._source):
            if not self._digests:
                yield sample
                continue
            mask = torch.tensor([digest not in self._digests for digest in self._digests_of(sample)])
            if mask.all():
                yield sample
            elif mask.any():
                yield sample.select(mask)

    def _read(self, source: Iterable[Any]) -> Iterator[Sample]:
        for index, batch in enumerate(source):
            call = self._network.call_of(batch, index)
            yield Sample(call, targets_of(batch, call), _size(call))

    def _choose(self, samples: Iterable[Sample], seed: int) -> None:
        """Hold out one of each eight samples in a row. Copies of it are not trained on either."""
        generator = torch.Generator().manual_seed(seed)
        drawn, count, kept = torch.empty(0, dtype=torch.long), 0, 0
        for sample in samples:
            self.batches += 1
            numbers = torch.arange(count, count + sample.size)
            count += sample.size
            while len(drawn) * _EVERY < count:
                drawn = torch.cat([drawn, torch.randint(_EVERY, (64,), generator=generator)])
            mask = numbers % _EVERY == drawn[numbers // _EVERY]
            if mask.any() and kept < -(-_MOST // ranks.count()):
                self.held.append(sample.select(mask))
                kept += self.held[-1].size
                self._digests.update(self._digests_of(self.held[-1]))

    def _digests_of(self, sample: Sample) -> list[bytes]:
        tensors = tuple(leaf for leaf in tree_leaves(tuple(sample.call)) if isinstance(leaf, Tensor))
        batched = tuple(bool(x.dim()) and len(x) == sample.size for x in tensors)
        rows = [b"".join(row) for row in bytes_of_samples(Batch(tensors, batched))]
        rows = rows if len(rows) == sample.size else [b"".join(rows)]
        return [hashlib.blake2b(row, digest_size=16).digest() for row in rows]


def _size(call: Call) -> int:
    """The number of samples; 1 for lists of images and the like, which are not divided."""
    values = [*call.args, *call.kwargs.values()]
    if any(isinstance(value, (list, tuple)) for value in values):
        return 1
    return next((len(x) for x in tree_leaves(values) if isinstance(x, Tensor) and x.dim()), 1)
