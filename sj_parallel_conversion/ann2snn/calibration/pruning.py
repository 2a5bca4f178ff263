"""Weights that pruning has set to 0, and that a calibration must leave at 0."""

from __future__ import annotations

from torch import Tensor

_PRUNED = 0.05  # share of zeros; training alone leaves hardly any that are exactly 0


def kept_weights(weight: Tensor) -> Tensor | None:
    """
    :param weight: of a layer
    :return: which values of it may change: in a pruned layer those that are not 0; ``None``: all
    """
    kept = weight.detach() != 0
    return kept if float(kept.float().mean()) <= 1 - _PRUNED else None
