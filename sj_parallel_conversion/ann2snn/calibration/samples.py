"""The values of a site that a neuron is fitted to."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ... import ranks
from ..data.outliers import usual_images
from ..placement.sites import Site
from .side_by_side import Batches


class Samples:
    """
    The values that a neuron is fitted to: those of :func:`_samples`, and of each image the largest if it is larger than
    all of these, so that a unit that is seldom active is not missed. Images that are outliers have no weight.

    :param site: the activation
    :param ann_input: its input in the ANN, batch by batch
    :param snn_input: the same in the spiking network
    :param activation: the ANN's module
    :param places: the samples, batch by batch

    ``y`` are the ANN's activations ``[C, samples]``, ``weight`` says what each sample counts; ``None``: all the same.
    ``share`` of all values are samples.
    """

    def __init__(
        self,
        site: Site,
        ann_input: Batches,
        snn_input: Batches,
        activation: Callable[[Tensor], Tensor],
        places: Sequence[Tensor],
    ) -> None:
        self._site, self._places, self._peaks = site, places, None
        self.y, self.weight = _samples(site, ann_input, places, activation), None
        taken, there_are = ranks.total_of(self.y.numel(), sum(x.numel() for x in ann_input))
        self.share = taken / there_are
        if site.channel_dim == 0:  # images lie along another axis than the first
            return
        usual = usual_images(ann_input, snn_input)
        if usual is not None:
            masks = [m.view(-1, *[1] * (x.dim() - 1)).expand_as(x) for m, x in zip(usual, ann_input, strict=True)]
            self.weight = _samples(site, masks, places)
        if self.share < 1:
            self._add_peaks(ann_input, activation, usual)

    def of(self, batches: Sequence[Tensor], see: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """``[C, samples]`` of ``see(batch)``, float32."""
        samples = _samples(self._site, batches, self._places, see)
        return samples if self._peaks is None else torch.cat([samples, _at(self._site, self._peaks, batches, see)], 1)

    def _add_peaks(
        self,
        ann_input: Batches,
        activation: Callable[[Tensor], Tensor],
        usual: list[Tensor] | None,
    ) -> None:
        even = torch.ones_like(self.y) if self.weight is None else self.weight
        images = (_by_image(self._site, activation(x)) for x in ann_input)
        peaks = torch.cat([torch.maximum(x.amax(2), -x.amin(2)) for x in images]).T.float()
        counts = peaks > ranks.largest_in_rows(self.y.abs() * (even > 0)).unsqueeze(1)
        counts = counts if usual is None else counts & torch.cat(usual)
        if counts.any():  # a sample that is chosen evenly stands for 1 / share of them
            self._peaks = [_by_image(self._site, activation(x)).abs().argmax(2, keepdim=True) for x in ann_input]
            self.y = torch.cat([self.y, _at(self._site, self._peaks, ann_input, activation)], 1)
            self.weight = torch.cat([even, counts * self.share], 1)


def _by_image(site: Site, x: Tensor) -> Tensor:
    """``x`` as ``[N, C, places]``; C = 1 where the channels are unknown."""
    if site.channel_dim is None:
        return x.reshape(len(x), 1, -1)
    return x.movedim(site.channel_dim, 1).unsqueeze(-1).flatten(2)


def _at(site: Site, places: list[Tensor], batches: Sequence[Tensor], see: Callable[[Tensor], Tensor] | None) -> Tensor:
    """``[C, images]`` of ``see(batch)``, float32, at one place of each image and channel."""
    values = (x if see is None else see(x) for x in batches)
    found = [_by_image(site, x).gather(2, place) for x, place in zip(values, places, strict=True)]
    return torch.cat(found).squeeze(2).T.float()


def _samples(
    site: Site, batches: Batches, places: Sequence[Tensor], see: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """``[C, samples]`` of ``see(batch)``, float32, at the ``places`` of each batch."""
    seen = (x if see is None else see(x) for x in batches)
    return torch.cat([site.at(x, numbers).float() for x, numbers in zip(seen, places, strict=True)], 1)
