"""Values that would decide every sum alone."""

from __future__ import annotations

from torch import Tensor

# Rare strong features must count, and so must the content of images that are empty elsewhere: what is usual is judged
# by the large values and not by the median.
_BULK, _FAR = 0.95, 50.0


def is_usual(size: Tensor) -> Tensor:
    """
    :param size: magnitudes, ``[..., samples]``
    :return: which of them are no outliers, fifty times larger than nearly all others of their row
    """
    rank = max(1, round(_BULK * size.shape[-1]))
    limit = _FAR * size.kthvalue(rank, -1, keepdim=True).values
    return (size <= limit) | (limit == 0)
