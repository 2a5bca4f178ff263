"""Values that would decide every sum alone."""

from __future__ import annotations

from torch import Tensor

# Rare strong features must count, and so must the content of images that are empty elsewhere: what is usual is judged
# by the large values and not by the median.
_BULK, _FAR = 0.95, 50.0


def is_usual(size: Tensor, judged_by: Tensor | None = None) -> Tensor:
    """
    :param size: magnitudes, ``[..., samples]``
    :param judged_by: some of them, for speed; ``None``: all
    :return: which of them are no outliers, fifty times larger than nearly all others of their row
    """
    judged_by = size if judged_by is None else judged_by
    rank = max(1, round(_BULK * judged_by.shape[-1]))
    limit = _FAR * judged_by.kthvalue(rank, -1, keepdim=True).values
    return (size <= limit) | (limit == 0)


def without_outliers(counts: Tensor, values: Tensor) -> Tensor:
    """
    :param counts: histograms ``[..., bins]``
    :param values: magnitudes of the bins, ascending
    :return: the same without those of outliers
    """
    cumulated = counts.cumsum(-1)
    bulk = (cumulated < _BULK * cumulated[..., -1:]).sum(-1, keepdim=True)
    limit = _FAR * values[bulk]
    return counts * ((values <= limit) | (limit == 0))
