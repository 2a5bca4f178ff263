"""Random places at which a calibration looks at its data."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ... import ranks


def spread(total: int, count: int, generator: torch.Generator, rows: int = 1) -> Tensor:
    """
    One random place in each of ``count`` equal intervals. A fixed stride would visit the same few pixels of every map
    whose width shares a factor with it.

    :param total: how many places there are
    :param count: how many to draw; all are taken if there are no more
    :param generator: where the random numbers come from
    :param rows: how many draws to make
    :return: ascending numbers of places, ``[rows, min(count, total)]``
    """
    if count >= total:
        return torch.arange(total).expand(rows, -1)
    drawn = torch.rand(rows, count, generator=generator, dtype=torch.float64)
    return ((torch.arange(count) + drawn) * (total / count)).long().clamp_(max=total - 1)


def spread_over(lengths: Sequence[int], count: int, generator: torch.Generator) -> list[Tensor]:
    """
    :param lengths: of batches
    :param count: how many places to draw in all
    :param generator: where the random numbers come from
    :return: numbers of places in each batch, spread evenly over all batches, those of the other ranks included
    """
    first, total = ranks.before(sum(lengths))
    places = spread(total, count, generator)[0] - first
    places = places[(places >= 0) & (places < sum(lengths))]
    ends = torch.tensor(lengths).cumsum(0)
    parts = places.tensor_split(torch.searchsorted(places, ends)[:-1])
    return [part - (end - n) for part, end, n in zip(parts, ends.tolist(), lengths, strict=True)]
