"""The error of a network's scores: of outputs between 0 and 1, few of which are large."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ...parameters import exact
from ..data.cache import Spool
from ..data.inputs import Batch
from .output_error import complete, outputs, packed


class ScoreError:
    r"""
    The mean difference between a network's scores s and the ANN's s*, in which high scores count more:

    .. math:: e = \frac{\sum w |s - s^*|}{\sum w}, \quad w = \max(s, s^*)^2.

    What a detector finds is in few places of an image. An error that counts all places alike says little of them.

    :param ann: gives s*
    :param parts: inputs
    :param spool: keeps the outputs
    """

    def __init__(self, ann: nn.Module, parts: Sequence[Batch], spool: Spool) -> None:
        targets = spool.keep(outputs(ann, x) for x in parts)
        if len(full := complete(targets)) < len(targets):
            parts, targets = [parts[i] for i in full], spool.keep(targets[i] for i in full)
        self._parts, self._targets = parts, targets
        found = [[scores(y, x.size) for y in ys] for x, ys in zip(parts, targets, strict=True)]
        self._masks = [_common(masks) for masks in zip(*found, strict=True)]

    def __bool__(self) -> bool:
        """Whether there are scores among the outputs."""
        return any(bool(mask.any()) for mask in self._masks)

    @torch.no_grad()
    def by_image(self, network: nn.Module) -> Tensor:
        """:param network: in the dtype of the inputs. :return: the error of each image, ``[images]`` in float64"""
        sums = []
        with packed(network):
            for batch, targets in zip(self._parts, self._targets, strict=True):
                rows = zip(outputs(network, batch), targets, self._masks, strict=True)
                sums.append(torch.stack([_sums(y, target, mask) for y, target, mask in rows if mask.any()]).sum(0))
        difference, weight = torch.cat(sums, 1).cpu()
        return difference / weight.clamp_min(torch.finfo(weight.dtype).tiny)

    @staticmethod
    def worse(errors: Tensor, than: Tensor) -> bool:
        """
        Whether ``errors`` are larger on average, by more than the standard error of the difference. Images with objects
        are few, so that more certainty can hardly be had, and neither of two thresholds costs more than the other.
        """
        if not (errors.isfinite().all() and than.isfinite().all()):
            return bool(than.isfinite().all())
        difference = errors - than
        return float(difference.mean()) > float(difference.std()) / len(difference) ** 0.5


def scores(y: Tensor, images: int) -> Tensor:
    """
    :param y: an output. Maps ``[N, C, ..., places]`` or ``[N, places, ..., C]`` may hold scores
    :param images: N. What has another length is no image's: anchors, say, or rows of all images
    :return: what of an image are scores, to be broadcast: the channels that hold values between 0 and 1 alone
    """
    if y.dim() < 3 or len(y) != images:  # one value a class and image is between 0 and 1 by chance
        return y.new_zeros(1, dtype=torch.bool)
    fits = (y >= 0) & (y <= 1)
    first, last = (fits.all(dim=[d for d in range(y.dim()) if d != axis], keepdim=True) for axis in (1, y.dim() - 1))
    return first | last


def _common(masks: tuple[Tensor, ...]) -> Tensor:
    """What are scores in all batches; none where batches differ in shape."""
    alike = all(mask.shape == masks[0].shape for mask in masks)
    return torch.stack(masks).all(0) if alike else masks[0].new_zeros(1)


def _sums(y: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """For each image the sums of w |s - s*| and of w, ``[2, images]``."""
    s, expected = exact(y) * mask, exact(target) * mask
    weight = torch.maximum(s, expected).square()
    return torch.stack([(weight * (s - expected).abs()).flatten(1).sum(1), weight.flatten(1).sum(1)])
