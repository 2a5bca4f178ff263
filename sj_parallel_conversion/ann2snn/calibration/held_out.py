"""Which images a regression does not fit, so that they can choose its penalty."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from functools import cached_property
from itertools import chain

import torch
from torch import Tensor

from ... import ranks
from ..data.inputs import Batch

EVERY = 8  # every eighth image, or one of fewer


class HeldOut:
    """
    Counts distinct images: copies of one that is held out must not be fitted, or no penalty would seem too small.

    :param generator: draws one of each eight images in a row
    """

    def __init__(self, generator: torch.Generator) -> None:
        self._generator = generator
        self._digests: list[list[bytes]] = []
        self._numbers: list[Tensor] = []
        self._known: dict[bytes, int] = {}  # of all ranks, in their order

    def watch(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """
        :param batches: inputs of the network
        :return: the same; when the last has been taken, :meth:`masks` are complete
        """
        devices = []
        for batch in batches:
            samples = map(b"".join, bytes_of_samples(batch))
            self._digests.append([hashlib.blake2b(sample, digest_size=8).digest() for sample in samples])
            devices.append(batch.tensors[0].device)
            yield batch
        for theirs in ranks.objects(self._digests):
            for digest in chain.from_iterable(theirs):
                self._known.setdefault(digest, len(self._known))
        for digests, device in zip(self._digests, devices, strict=True):
            self._numbers.append(torch.tensor([self._known[digest] for digest in digests], device=device))

    @cached_property
    def _held(self) -> Tensor:
        """Which of the distinct images are held out."""
        every = min(EVERY, len(self._known))
        groups = torch.arange(len(self._known)) // every
        drawn = torch.randint(every, (len(self._known),), generator=self._generator)[groups]
        return torch.arange(len(self._known)) % every == drawn

    def masks(self, lengths: Iterable[int]) -> list[Tensor]:
        """
        :param lengths: of each batch of values; where they are parts of images, each image has equally many in a row
        :return: batch by batch, which values belong to images that are held out
        """
        held = [self._held.to(numbers.device)[numbers] for numbers in self._numbers]
        return [mask.repeat_interleave(-(-n // len(mask)))[:n] for mask, n in zip(held, lengths, strict=True)]


def bytes_of_samples(batch: Batch) -> Iterator[tuple[bytes, ...]]:
    """Of each sample the bytes of its tensors, by which copies are known."""
    inputs = [x for x, batched in zip(batch.tensors, batch.batched, strict=True) if batched] or batch.tensors
    return zip(*map(_bytes_of_rows, inputs), strict=True)


def _bytes_of_rows(x: Tensor) -> list[bytes]:
    rows = x.detach().cpu().unsqueeze(-1).flatten(1).contiguous().view(torch.uint8).numpy()
    return [row.tobytes() for row in rows]
