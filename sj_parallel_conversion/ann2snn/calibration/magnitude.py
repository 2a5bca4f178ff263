"""The size of values, so that sums of squares neither overflow nor vanish, whatever the units of a network are."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from ... import ranks
from ..data.outliers import is_usual, sizes


def magnitude(largest: Tensor) -> Tensor:
    """
    :param largest: the largest of some magnitudes, any shape
    :return: the power of two below it, by which a division is exact; 1 where it is 0 or not finite
    """
    _, exponent = torch.frexp(largest)
    power = torch.ldexp(torch.ones_like(largest), exponent - 1)
    return torch.where((largest > 0) & largest.isfinite(), power, 1.0)


def magnitude_of(batches: Iterable[Tensor]) -> Tensor:
    """The :func:`magnitude` ``[]`` of values, batch by batch ``[N, ...]``, those of outliers left out."""
    size = torch.cat([sizes(x) for x in batches])
    return magnitude(ranks.largest(size.where(is_usual(size), 0.0).amax()))
