"""Ridge regression for layers: the change of weights and bias that brings their output nearer to a target."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .outliers import is_usual
from .patches import count_places, input_rows, output_rows, to_weight, weight_rows

_RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # relative to the mean variance of the inputs
_DEFAULT_RIDGE = 1e-2  # where no image can be held out
_ROWS = 131_072  # samples a layer; more change the solution less than the choice of images does
_ELEMENTS = 2**26  # of the regression's input, which limit its time, and its memory if all images come in one batch


def fit_change(
    layer: nn.Module,
    inputs: Iterable[Tensor],
    outputs: Sequence[Tensor],
    targets: Iterable[Tensor],
    weights: Iterable[Tensor | None],
    rectified: bool,
    held_out: int,
) -> Tensor | None:
    r"""
    The change of ``[weight, bias]`` that minimises the squared error of the output, with a ridge penalty that held-out
    images choose. If a rectifier follows, only what passes it counts:

    .. math:: [z^* > 0]\,(z - z^*)^2 + [z^* \le 0]\,\max(z, 0)^2,

    of which the least-squares problem with ``min(z, 0)`` as the target, where z* is negative, is a majorant at the
    present z. One such step is taken: more of them fit the layer ever better and the network ever worse.

    :param layer: a linear layer, or a convolution of any dimension, stride, padding, dilation and groups
    :param inputs: what goes into it, batch by batch
    :param outputs: what comes out, or that plus what is added to it
    :param targets: what should come out, same shapes
    :param weights: of the squared errors, the same for all channels, broadcastable to the outputs; ``None``: 1
    :param rectified: whether a rectifier follows
    :param held_out: every how-manieth image is held out
    :return: ``[groups, features + 1, channels]``, or ``None`` if no change helps the held-out images
    """
    fitted, held, held_rows = _Sums(), _Sums(), []
    samples = _without_outliers(list(_samples(layer, outputs, targets, weights, held_out)))
    for sample, u in zip(samples, inputs, strict=True):
        x = input_rows(layer, u[sample.order], sample.places).mul_(sample.root)
        z, target = sample.output * sample.root, sample.target * sample.root
        error = (torch.where(target > 0, target, z.clamp(max=0)) if rectified else target) - z
        for sums, rows in ((fitted, slice(sample.fitted)), (held, slice(sample.fitted, None))):
            sums.add(x[:, rows], error[:, rows], sample.root[rows])
        # a copy, because a view would keep all rows in memory
        held_rows.append((x[:, rows].clone(), z[:, rows], target[:, rows], sample.root[rows].expand(len(x), -1, 1)))
    if not (fitted.rows and held.rows):
        return (fitted + held).solve(_DEFAULT_RIDGE)
    x, z, target, root = (torch.cat(parts, 1) for parts in zip(*held_rows, strict=True))
    best, lowest = None, _loss(z, target, rectified)
    for ridge in _RIDGES:
        change = fitted.solve(ridge)
        loss = _loss(z + x @ change[:, :-1] + root @ change[:, -1:], target, rectified)
        if loss < lowest:
            best, lowest = ridge, loss
    return None if best is None else (fitted + held).solve(best)


def apply_change(layer: nn.Module, change: Tensor) -> None:
    """Add ``change`` ``[groups, features + 1, channels]`` to the weight and bias of ``layer``."""
    layer.weight.data += to_weight(layer, change[:, :-1])
    bias = change[:, -1].flatten().to(layer.weight.dtype)
    if layer.bias is None:
        layer.bias = nn.Parameter(torch.zeros_like(bias))
    layer.bias.data += bias


@dataclass
class _Sample:
    """
    Rows of one batch: some places of each image, those of held-out images last.

    :param order: of the images
    :param places: numbers of the output places
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
    layer: nn.Module,
    outputs: Sequence[Tensor],
    targets: Iterable[Tensor],
    weights: Iterable[Tensor | None],
    held_out: int,
) -> Iterator[_Sample]:
    generator = torch.Generator().manual_seed(0)
    rows = min(_ROWS, _ELEMENTS // (layer.weight[0].numel() * getattr(layer, "groups", 1)))
    per_image = max(1, rows // sum(len(z) for z in outputs))
    first = 0
    for z, target, weight in zip(outputs, targets, weights, strict=True):
        held = (torch.arange(len(z)) + first) % held_out == held_out - 1
        first += len(z)
        order = held.long().argsort(stable=True).to(z.device)
        places = torch.randperm(count_places(layer, z), generator=generator)[:per_image].sort().values.to(z.device)
        output, target = (output_rows(layer, y[order], places) for y in (z, target))
        weight = torch.ones((), device=z.device) if weight is None else weight.expand(z.shape)[order]
        root = weight_rows(layer, weight, z, places).sqrt()
        yield _Sample(order, places, int((~held).sum()) * len(places), output, target, root)


def _without_outliers(samples: list[_Sample]) -> list[_Sample]:
    """The samples, with no weight for rows that would decide every sum alone."""
    sizes = [(sample.output.square().sum(2) + sample.target.square().sum(2)).sum(0).sqrt() for sample in samples]
    usual = is_usual(torch.cat(sizes)).split([len(size) for size in sizes])
    for sample, mask in zip(samples, usual, strict=True):
        sample.root *= mask.unsqueeze(1)
    return samples


class _Sums:
    """What least squares needs to know of rows: their covariance, and that with what they shall explain."""

    def __init__(self) -> None:
        self.rows = 0
        self.covariance: Tensor | float = 0.0
        self.explained: Tensor | float = 0.0

    def add(self, x: Tensor, error: Tensor, root: Tensor) -> None:
        """
        :param x: inputs ``[groups, rows, features]``
        :param error: what they shall explain, ``[groups, rows, channels]``
        :param root: the input of the bias, ``[rows, 1]``
        """
        if not len(root):
            return
        root = root.expand(len(x), -1, 1)
        across = (x.transpose(1, 2) @ torch.cat([error, root], 2)).double()
        alone = (root.transpose(1, 2) @ torch.cat([error, root], 2)).double()
        covariance = torch.cat([(x.transpose(1, 2) @ x).double(), across[..., -1:]], 2)
        last = torch.cat([across[..., -1:].transpose(1, 2), alone[..., -1:]], 2)
        self.covariance = self.covariance + torch.cat([covariance, last], 1)
        self.explained = self.explained + torch.cat([across[..., :-1], alone[..., :-1]], 1)
        self.rows += len(root[0])

    def __add__(self, other: _Sums) -> _Sums:
        both = _Sums()
        both.rows = self.rows + other.rows
        both.covariance = self.covariance + other.covariance
        both.explained = self.explained + other.explained
        return both

    def solve(self, ridge: float) -> Tensor:
        """:param ridge: penalty, relative to the mean variance. :return: ``[groups, features + 1, channels]``"""
        diagonal = self.covariance.diagonal(dim1=1, dim2=2)
        scale = diagonal[:, :-1].mean(1, keepdim=True)
        penalty = (ridge * scale).expand_as(diagonal).clone()
        penalty[:, -1] = 1e-6 * diagonal[:, -1]  # the bias is free
        factor = torch.linalg.cholesky(self.covariance + torch.diag_embed(penalty + 1e-9 * scale + 1e-12))
        return torch.cholesky_solve(self.explained, factor).float()


def _loss(z: Tensor, target: Tensor, rectified: bool) -> float:
    error = torch.where(target > 0, z - target, z.clamp(min=0)) if rectified else z - target
    return float(error.double().square().sum())
