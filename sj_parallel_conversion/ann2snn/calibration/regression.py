"""Ridge regression for layers: the change of weights and bias that brings their output nearer to a target."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ... import ranks
from ...parameters import exact
from ..data.outliers import is_usual
from .magnitude import magnitude_of
from .patches import Layer, count_places, from_weight, input_rows, output_rows, to_weight, weight_rows
from .pruning import kept_weights
from .ridge import Rows, Sums
from .sampling import spread
from .side_by_side import Batches

_RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # relative to the mean variance of the inputs
_DEFAULT_RIDGE = 1e-2  # where no image can be held out
_ROWS = 131_072  # samples a layer; more change the solution less than the choice of images does
_ELEMENTS = 2**26  # of the regression's input, which limit its time, and its memory if all images come in one batch


def fit_change(
    layer: Layer,
    inputs: Batches,
    outputs: Batches,
    targets: Batches,
    weights: Iterable[Tensor | None],
    rectified: bool,
    held_out: Sequence[Tensor],
    generator: torch.Generator | None = None,
) -> Tensor | None:
    r"""
    The change of ``[weight, bias]`` that minimises the squared error of the output, with a ridge penalty that held-out
    images choose. If a rectifier follows, only what passes it counts:

    .. math:: [z^* > 0]\,(z - z^*)^2 + [z^* \le 0]\,\max(z, 0)^2,

    of which the least-squares problem with ``min(z, 0)`` as the target, where z* is negative, is a majorant at the
    present z. One such step is taken: more of them fit the layer ever better and the network ever worse. In a pruned
    layer weights that are 0 do not change, nor does the bias of a channel that has no weights left.

    :param layer: a linear layer, or a convolution of any dimension, stride, padding, dilation and groups
    :param inputs: what goes into it, batch by batch
    :param outputs: what comes out, or that plus what is added to it
    :param targets: what should come out, same shapes
    :param weights: of the squared errors, the same for all channels, broadcastable to the outputs; ``None``: 1
    :param rectified: whether a rectifier follows
    :param held_out: batch by batch, which images are held out
    :param generator: where the choice of places comes from; ``None``: one of the call's own
    :return: ``[groups, features + 1, channels]``, or ``None`` if no change helps the held-out images or
        none is finite
    """
    generator = generator or torch.Generator()
    samples = _without_outliers(list(_samples(layer, outputs, targets, weights, held_out, generator)))
    units = magnitude_of(inputs), magnitude_of(targets)
    features = layer.weight[0].numel()
    sums_of = Sums if features <= ranks.total_of(sum(len(sample.root) for sample in samples))[0] else Rows
    kept = kept_weights(layer.weight)
    kept = None if kept is None else from_weight(layer, kept)
    fitted, held, held_rows = sums_of(), sums_of(), []
    centre: Tensor | None = None
    for sample, u in zip(samples, inputs, strict=True):
        x = input_rows(layer, u[sample.order], sample.places).div_(units[0])
        centre = ranks.from_first(x.mean(1, keepdim=True)) if centre is None else centre
        x.sub_(centre).mul_(sample.root)
        z, target = (y / units[1] * sample.root for y in (sample.output, sample.target))
        error = (torch.where(target > 0, target, z.clamp(max=0)) if rectified else target) - z
        for sums, rows in ((fitted, slice(sample.fitted)), (held, slice(sample.fitted, None))):
            sums.add(x[:, rows], error[:, rows], sample.root[rows])
        # a copy, because a view would keep all rows in memory
        held_rows.append((x[:, rows].clone(), z[:, rows], target[:, rows], sample.root[rows].expand(len(x), -1, 1)))
    assert centre is not None  # there is a batch
    fitted, held = fitted.of_all_ranks(held), held.of_all_ranks(fitted)
    if not (fitted.rows and held.rows):
        return _plain((fitted + held).solve(_DEFAULT_RIDGE, centre, kept), centre, *units)
    x, z, target, root = (torch.cat(parts, 1) for parts in zip(*held_rows, strict=True))
    best, lowest = None, _loss(z, target, rectified)
    for ridge in _RIDGES:
        change = fitted.solve(ridge, centre, kept)
        if change is None:
            continue
        loss = _loss(z + x @ change[:, :-1] + root @ change[:, -1:], target, rectified)
        if loss < lowest:
            best, lowest = ridge, loss
    return None if best is None else _plain((fitted + held).solve(best, centre, kept), centre, *units)


def apply_change(layer: Layer, change: Tensor) -> None:
    """Add ``change`` ``[groups, features + 1, channels]`` to the weight and bias of ``layer``, which become its own."""
    layer.weight = nn.Parameter(layer.weight.detach() + to_weight(layer, change[:, :-1]))
    bias = change[:, -1].flatten().to(layer.weight.dtype)
    layer.bias = nn.Parameter(bias if layer.bias is None else layer.bias.detach() + bias)


def _plain(change: Tensor | None, centre: Tensor, input_unit: Tensor, unit: Tensor) -> Tensor | None:
    """
    ``change`` for inputs from which ``centre`` ``[groups, 1, features]`` is not subtracted, and for values that are not
    divided by the units.
    """
    if change is None:
        return None
    bias = change[:, -1:] - (exact(centre) @ exact(change[:, :-1])).to(change)
    return torch.cat([change[:, :-1] * (unit / input_unit), bias * unit], 1).float()


@dataclass
class _Sample:
    """
    Rows of one batch: some places of each image, those of held-out images last.

    :param order: of the images
    :param places: numbers of the output places in each image, ``[N, places]``
    :param fitted: how many rows are not held out
    :param output: ``[groups, rows, channels]``
    :param target: the same of what should come out
    :param root: of the weight of the squared error, ``[rows, 1]``; rows, errors and predictions are multiplied by it
    """

    order: Tensor
    places: Tensor
    fitted: int
    output: Tensor
    target: Tensor
    root: Tensor


def _samples(
    layer: Layer,
    outputs: Batches,
    targets: Iterable[Tensor],
    weights: Iterable[Tensor | None],
    held_out: Sequence[Tensor],
    generator: torch.Generator,
) -> Iterator[_Sample]:
    rows = min(_ROWS, _ELEMENTS // (layer.weight[0].numel() * getattr(layer, "groups", 1)))
    images = sum(len(z) for z in outputs)
    first, total = ranks.before(images)
    per_image = max(1, rows // total)
    skip = count_places(layer, outputs[0])
    spread(skip, per_image, generator, rows=first)  # what the ranks before this one draw
    for z, target, weight, held in zip(outputs, targets, weights, held_out, strict=True):
        order = held.long().argsort(stable=True).to(z.device)
        places = spread(count_places(layer, z), per_image, generator, rows=len(z)).to(z.device)
        output, target = (output_rows(layer, y[order], places) for y in (z, target))
        weight = torch.ones((), device=z.device) if weight is None else weight.expand(z.shape)[order]
        root = weight_rows(layer, weight, z, places).sqrt()
        yield _Sample(order, places, int((~held).sum()) * places.shape[1], output, target, root)
    spread(skip, per_image, generator, rows=total - first - images)


def _without_outliers(samples: list[_Sample]) -> list[_Sample]:
    """The samples, with no weight for the rows of images that would decide every sum alone."""
    rows = [torch.maximum(sample.output.abs(), sample.target.abs()).amax((0, 2)) for sample in samples]
    sizes = [size.view(len(sample.order), -1).amax(1) for size, sample in zip(rows, samples, strict=True)]
    usual = is_usual(torch.cat(sizes)).split([len(size) for size in sizes])
    for sample, mask in zip(samples, usual, strict=True):
        sample.root *= mask.repeat_interleave(len(sample.root) // len(mask)).unsqueeze(1)
    return samples


def _loss(z: Tensor, target: Tensor, rectified: bool) -> float:
    error = torch.where(target > 0, z - target, z.clamp(min=0)) if rectified else z - target
    return ranks.total_of(float(exact(error).square().sum()))[0]
