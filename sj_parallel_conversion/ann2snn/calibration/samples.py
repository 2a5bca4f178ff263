"""The values of a site that a neuron is fitted to."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ... import ranks
from ..data.outliers import usual_images
from ..graph import is_rectifier
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
        self._site, self._places = site, places
        self._peaks: list[tuple[Tensor, Tensor]] | None = None
        self.y = _samples(site, ann_input, places, activation)
        self.weight: Tensor | None = None
        taken, there_are = ranks.total_of(self.y.numel(), sum(x.numel() for x in ann_input))
        self.share = taken / there_are
        if site.channel_dim == 0:  # images lie along another axis than the first
            return
        usual = usual_images(*([ann_input] if snn_input is ann_input else [ann_input, snn_input]))
        if usual is not None:
            masks = [m.view(-1, *[1] * (x.dim() - 1)).expand_as(x) for m, x in zip(usual, ann_input, strict=True)]
            self.weight = _samples(site, masks, places)
        if self.share < 1:
            self._add_peaks(ann_input, activation, usual)

    def of(self, batches: Batches, see: Callable[[Tensor], Tensor] | None = None) -> Tensor:
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
        peaks = torch.cat([_peaks(self._site, x, activation) for x in ann_input]).T.float()
        counts = peaks > ranks.largest_in_rows(self.y.abs() * (even > 0)).unsqueeze(1)
        counts = counts if usual is None else counts & torch.cat(usual)
        if counts.any():  # a sample that is chosen evenly stands for 1 / share of them
            images = [found.nonzero().squeeze(1) for found in counts.any(0).split([len(x) for x in ann_input])]
            self._peaks = [
                (rows, _by_image(self._site, activation(x[rows])).abs().argmax(2, keepdim=True))
                for rows, x in zip(images, ann_input, strict=True)
            ]
            self.y = torch.cat([self.y, _at(self._site, self._peaks, ann_input, activation)], 1)
            self.weight = torch.cat([even, counts[:, counts.any(0)] * self.share], 1)


def _peaks(site: Site, x: Tensor, activation: Callable[[Tensor], Tensor]) -> Tensor:
    """The largest magnitude of ``activation(x)`` for each image and channel, ``[N, C]``."""
    if is_rectifier(site.activation) and site.channel_dim == 1:  # of the largest input, then
        return _seen(x.unsqueeze(-1).flatten(2).amax(2), x.dim(), activation)
    y = _by_image(site, activation(x))
    return torch.maximum(y.amax(2), -y.amin(2))


def _by_image(site: Site, x: Tensor) -> Tensor:
    """``x`` as ``[N, C, places]``; C = 1 where the channels are unknown."""
    if site.channel_dim is None:
        return x.unsqueeze(-1).flatten(1).unsqueeze(1)
    return x.movedim(site.channel_dim, 1).unsqueeze(-1).flatten(2)


def _at(
    site: Site,
    places: list[tuple[Tensor, Tensor]],
    batches: Batches,
    see: Callable[[Tensor], Tensor] | None,
) -> Tensor:
    """``[C, images]`` of ``see(batch)``, float32: of some images, at one place in each channel."""
    found = []
    for x, (rows, place) in zip(batches, places, strict=True):
        values = x[rows] if see is None else see(x[rows])
        found.append(_by_image(site, values).gather(2, place))
    return torch.cat(found).squeeze(2).T.float()


def _samples(
    site: Site, batches: Batches, places: Sequence[Tensor], see: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """``[C, samples]`` of ``see(batch)``, float32, at the ``places`` of each batch."""
    found = []
    for x, numbers in zip(batches, places, strict=True):
        if see is not None and site.channel_dim == 1:  # an activation works on each value alone
            found.append(_seen(site.at(x, numbers).T, x.dim(), see).T.float())
        else:
            found.append(site.at(x if see is None else see(x), numbers).float())
    return torch.cat(found, 1)


def _seen(values: Tensor, dims: int, see: Callable[[Tensor], Tensor]) -> Tensor:
    """``see(values)``, ``[N, C]``, for what takes ``[N, C, ...]`` of so many dimensions."""
    return see(values.view(*values.shape, *[1] * (dims - 2))).flatten(1)
