"""Images whose values are so large that they would decide every sum alone, such as one with a broken pixel."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from ... import ranks
from ...functional.quantise import full_precision

# A feature that is rare, but real, is strong in few places, or in few channels, but seldom in so few images alone.
_SHARE, _FAR = 0.02, 50.0  # the images that may be outliers, one at least, and how far they are from all others
_FEW = 3  # of fewer images none can be told to be broken


def sizes(x: Tensor) -> Tensor:
    """The largest magnitude in each image of ``x`` ``[N, ...]``, in all its channels and places, ``[N]``."""
    if x.dim() < 2 or not x.numel():
        return full_precision(x.reshape(-1).abs())
    x = x.flatten(1)
    return full_precision(torch.maximum(x.amax(1), -x.amin(1)))  # aminmax(dim=1) takes 25 times as long on a CPU


def is_usual(size: Tensor) -> Tensor:
    """
    :param size: largest magnitudes of images, ``[..., images]``; those of this rank, which are compared with
        those of all
    :return: which of them are no outliers: fifty times larger than those of 98 % of the images
    """
    return ranks.own_part(_is_usual(ranks.gather(size)), size)


def _is_usual(size: Tensor) -> Tensor:
    images = size.shape[-1]
    if images < _FEW:
        return torch.ones_like(size, dtype=torch.bool)
    rank = images - max(1, int(_SHARE * images))
    limit = size.kthvalue(rank, -1, keepdim=True).values * _FAR
    return (size <= limit) | (limit == 0)


def usual_images(*values: Iterable[Tensor]) -> list[Tensor] | None:
    """
    :param values: some values of a network, each batch by batch ``[N, ...]``
    :return: batch by batch, which images are no outliers in any of them, ``[N]``; ``None``: all
    """
    batches = [[sizes(x) for x in value] for value in values]
    usual = torch.stack([is_usual(torch.cat(value)) for value in batches]).all(0)
    return None if usual.all() else list(usual.split([len(size) for size in batches[0]]))
