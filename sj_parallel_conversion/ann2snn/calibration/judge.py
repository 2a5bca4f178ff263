"""Held-out images, which say whether a calibration has made a network better."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, fx, nn

from ... import ranks
from ..config import ConversionConfig
from ..data.inputs import Batch
from ..data.selection import Data, Selection
from .held_out import bytes_of_samples
from .output_error import OutputError

_SHARE, _MOST = 8, 64  # one image in eight is held out, at most so many
_LEAST = 4  # fewer say nothing
_FEW = 32  # images of a first look at a cheaper calibration
_IMAGES = 16  # at once
_GROSS = 3  # times the error more is a reason even if one image decides it
_ROUNDING = 1e-6  # relative error; less tells nothing apart


class Judge:
    """
    Compares networks by their outputs on images that no calibration has fitted.

    :param error: of the outputs on held-out images
    :param fitted: the other calibration data
    :param few: some of these
    """

    def __init__(self, error: OutputError, fitted: Selection, few: Selection) -> None:
        self.error, self.fitted, self.few = error, fitted, few

    @classmethod
    def of(cls, ann: fx.GraphModule, data: Data, config: ConversionConfig) -> Judge | None:
        """
        Copies of an image are on the same side, and which side that is, its content and the seed decide: so it is the
        same each time the data are read, in whatever order.

        :param ann: the reference
        :param data: calibration data, read once
        :param config: the conversion's options
        :return: ``None`` where there are too few images, or no outputs that could be compared
        """
        whole = data.fixed_batch
        key = config.seed.to_bytes(8, "big")
        count, lowest = _of_all_ranks(*_lowest(data.batches("choose held-out images"), whole, key))
        order = sorted(lowest)
        size = min(_MOST, count // _SHARE)
        if size < _LEAST:
            return None
        held, images = set(order[:size]), [lowest[digest].to(data.device, None) for digest in order[: size + _FEW]]
        few = list(_joined(images[size:], whole))
        with ranks.alone():  # all have these images
            error = OutputError(ann, _joined(images[:size], whole), data.spool, whole)

        def fitted(description: str) -> Iterator[Batch]:
            for batch in data.batches(description):
                kept = torch.tensor([digest not in held for digest in digests(batch, whole, key)])
                if kept.all():
                    yield batch
                elif kept.any():
                    yield batch.select(kept.to(batch.tensors[0].device))

        return cls(error, Selection(data, fitted), Selection(data, lambda description: few)) if len(error) else None

    def errors(self, network: nn.Module, dtype: torch.dtype | None = None) -> Tensor:
        """The error of each held-out image; ``dtype``: of the network, if it is another than the data's."""
        return ranks.gather(self.error.by_image(network, dtype, ranks.own(range(len(self.error)))))

    @staticmethod
    def worse(errors: Tensor, than: Tensor) -> bool:
        """Whether ``errors`` are larger: several times, or by more than chance would make of so many images."""
        if not (errors.isfinite().all() and than.isfinite().all()):
            return bool(than.isfinite().all())
        count, difference = len(errors), errors - than
        # Student's t at 97.5 %; the same images for both sides
        noise = (2 + 4 / count) * float(difference.std()) / count**0.5 if count > 1 else torch.inf
        return float(difference.mean()) > max(min(noise, _GROSS * float(than.mean())), _ROUNDING)


def _lowest(batches: Iterable[Batch], whole: bool, key: bytes) -> tuple[dict[bytes, None], dict[bytes, Batch]]:
    """The digests of the images, the first in its place, and the images with the lowest ones: a random choice."""
    seen: dict[bytes, None] = {}
    lowest: dict[bytes, Batch] = {}
    for batch in batches:
        for i, digest in enumerate(digests(batch, whole, key)):
            seen[digest] = None
            if len(lowest) < _MOST + _FEW or digest < max(lowest):
                lowest[digest] = batch if whole else batch.select(torch.tensor([i]))
                if len(lowest) > _MOST + _FEW:
                    del lowest[max(lowest)]
    return seen, lowest


def _of_all_ranks(seen: dict[bytes, None], lowest: dict[bytes, Batch]) -> tuple[int, dict[bytes, Batch]]:
    """
    The same of the images of all ranks. The first image of each rank is not among those that may be held out, so that
    none is left without an image to fit.
    """
    if ranks.count() == 1:
        return len(seen), lowest
    enough = sorted(seen)[: _SHARE * _MOST]  # more do not change what is held out
    firsts = set(ranks.objects(next(iter(seen))))
    count = len(set().union(*ranks.objects(enough)))
    chosen = sorted(set().union(*ranks.objects(list(lowest))) - firsts)[: _MOST + _FEW]
    mine = {digest: lowest[digest].to(torch.device("cpu"), None) for digest in chosen if digest in lowest}
    found: dict[bytes, Batch] = {}
    for theirs in ranks.objects(mine):
        found = theirs | found
    return count, found


def digests(batch: Batch, whole: bool, key: bytes) -> list[bytes]:
    """Random numbers that the content of each image decides, or that of the ``whole`` batch."""
    samples = [b"".join(sample) for sample in bytes_of_samples(batch)]
    samples = [b"".join(samples)] if whole else samples
    return [hashlib.blake2b(sample, digest_size=8, key=key).digest() for sample in samples]


def _joined(samples: list[Batch], whole: bool) -> Iterator[Batch]:
    """Samples of one shape, so many at once; those that belong to a batch with something in common, alone."""
    groups: dict[object, list[Batch]] = {}
    for sample in samples:
        alone = whole or not all(sample.batched)
        form = id(sample) if alone else tuple((x.shape[1:], x.dtype) for x in sample.tensors)
        groups.setdefault(form, []).append(sample)
    for group in groups.values():
        for start in range(0, len(group), _IMAGES):
            part = group[start : start + _IMAGES]
            tensors = zip(*(sample.tensors for sample in part), strict=True)
            yield part[0] if len(part) == 1 else Batch(tuple(map(torch.cat, tensors)), part[0].batched)
