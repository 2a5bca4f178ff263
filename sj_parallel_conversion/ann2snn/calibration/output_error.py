"""The error of a network's outputs against the ANN's."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from ... import ranks
from ...neuron.spiking_activation import SpikingActivation
from ...parameters import exact
from ..data.cache import Spool, Spooled
from ..data.inputs import Batch
from ..data.outliers import is_usual


class OutputError:
    r"""
    The relative squared error of the outputs y, a mean over the floating ones among them:

    .. math:: e = \overline{(y - y^*)^2} / \mathrm{var}(y^*).

    Images whose output is not finite, or would decide the error alone, do not count.

    :param ann: gives y*
    :param parts: inputs
    :param spool: keeps them
    :param whole: whether parts have to stay whole
    """

    def __init__(self, ann: nn.Module, parts: Iterable[Batch], spool: Spool, whole: bool) -> None:
        kept: Spooled[Batch] = parts if isinstance(parts, Spooled) else spool.keep(parts)
        targets = spool.keep(outputs(ann, x) for x in kept)
        if len(full := complete(targets)) < len(targets):
            kept, targets = spool.keep(kept[i] for i in full), spool.keep(targets[i] for i in full)
        number = len(targets[0]) if len(targets) else 0
        self.parts, self.targets = _usual(spool, kept, targets, whole)
        self.usable = ranks.any_of(len(self.parts) > 0)  # on some rank
        self.deviations = _deviations(self.targets, number) if self.usable else []

    def __len__(self) -> int:
        return len(self.parts)

    def of(self, network: nn.Module, part: int, dtype: torch.dtype | None = None) -> Tensor:
        """The mean error of one part; ``dtype``: of the network, if it is another than the inputs'."""
        return _sum([error.mean() for error in self._squares(network, part, dtype)]) / len(self.deviations)

    @torch.no_grad()
    def by_image(self, network: nn.Module, dtype: torch.dtype | None, parts: Iterable[int]) -> Tensor:
        """The error of each image of ``parts``, or of each part where it is not known which output is whose."""
        errors = [torch.empty(0)]
        with packed(network):
            for part in parts:
                squares, size = self._squares(network, part, dtype), self.parts[part].size
                by_image = all(x.dim() and len(x) == size for x in squares)
                means = [x.flatten(1).mean(1) if by_image and x.dim() > 1 else x if by_image else x.mean().view(1)
                         for x in squares]  # fmt: skip
                errors.append(_sum(means) / len(means))
        return exact(torch.cat([error.cpu() for error in errors]))

    def _squares(self, network: nn.Module, part: int, dtype: torch.dtype | None) -> list[Tensor]:
        batch = self.parts[part]
        batch = batch if dtype is None else batch.to(batch.tensors[0].device, dtype)
        pairs = zip(outputs(network, batch), self.targets[part], self.deviations, strict=True)
        return [((y - target) / deviation).square() for y, target, deviation in pairs]


def outputs(model: nn.Module, batch: Batch) -> list[Tensor]:
    """The floating tensors among the outputs, in float32 at least."""
    found = model(*batch.clone().tensors)  # autograd takes no tensor made in inference mode
    tensors = [y for y in found if isinstance(y, Tensor) and y.is_floating_point() and y.numel()]
    return [y if y.dtype == torch.float64 else y.float() for y in tensors]


def complete(targets: Spooled[list[Tensor]]) -> list[int]:
    """The numbers of the parts that have all outputs: a map of a small image may be empty."""
    counts = [len(found) for found in targets]
    return [i for i, count in enumerate(counts) if count == max(counts)]


@contextlib.contextmanager
def packed(network: nn.Module) -> Iterator[None]:
    """Within it, levels pass between the neurons and no trains: the same values, faster."""
    neurons = [(m, m.packed) for m in network.modules() if isinstance(m, SpikingActivation)]
    try:
        for neuron, _ in neurons:
            neuron.packed = True
        yield
    finally:
        for neuron, flag in neurons:
            neuron.packed = flag


def _usual(
    spool: Spool, parts: Spooled[Batch], targets: Spooled[list[Tensor]], whole: bool
) -> tuple[Spooled[Batch], Spooled[list[Tensor]]]:
    """
    Without images whose output is not finite or would decide the error alone, as far as it is known which output is
    whose. If batches have to stay ``whole``, without the batches in which there is such an image.
    """
    if not len(targets) or not targets[0]:
        return spool.keep([]), spool.keep([])
    if not all(y.dim() and len(y) == x.size for x, found in zip(parts, targets, strict=True) for y in found):
        return parts, targets
    sizes = _sizes(targets)
    finite = torch.stack([size.isfinite() for size in sizes]).all(0)
    usual = [is_usual(size.where(finite, 0.0)) for size in sizes]
    masks = (torch.stack(usual).all(0) & finite).split([x.size for x in parts])
    if all(mask.all() for mask in masks):
        return parts, targets
    kept = [(i, mask) for i, mask in enumerate(masks) if (mask.all() if whole else mask.any())]
    return (
        spool.keep(parts[i].select(mask) for i, mask in kept),
        spool.keep([y[mask] for y in targets[i]] for i, mask in kept),
    )


def _sizes(targets: Iterable[list[Tensor]]) -> list[Tensor]:
    """Of each output, the largest magnitude in each image."""
    by_part = [[y.flatten(1).abs().amax(1) if y.dim() > 1 else y.abs() for y in found] for found in targets]
    return [torch.cat(parts) for parts in zip(*by_part, strict=True)]


def _deviations(targets: Spooled[list[Tensor]], number: int) -> list[Tensor]:
    """
    The standard deviation of each of ``number`` outputs, over all images; of a constant one its size, or 1 where that
    is 0.
    """
    sums = [torch.stack([_moments(exact(y)) for y in found]) for found in targets]
    count, total, square = ranks.total(_sum(sums) if sums else torch.zeros(number, 3, dtype=torch.float64)).unbind(1)
    variance = square / count - (total / count).square()
    variance = torch.where(variance > 0, variance, square / count)
    deviations = torch.where(variance > 0, variance, 1.0).sqrt().float()
    return list(deviations.to(targets[0][0].device) if sums else deviations)


def _sum(values: list[Tensor]) -> Tensor:
    """Their sum, one by one; there is one at least."""
    return sum(values[1:], start=values[0])


def _moments(y: Tensor) -> Tensor:
    return torch.stack([y.new_tensor(y.numel()), y.sum(), y.square().sum()])
