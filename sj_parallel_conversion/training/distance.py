"""What fine-tuning makes less: the distance of outputs from the ANN's, or a loss of the user's."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import reduce

import torch
from torch import Tensor

from .. import ranks
from ..analysis.answers import Network, main_tensor
from ..errors import ConfigError, DataError, as_data_error
from ..parameters import exact
from ..torch_compat import tree_leaves
from .tuning_data import Sample

Loss = Callable[[Sample, object], Tensor]  # of some samples and what the network answers to them


def distance_from(ann: Network, held: Iterable[Sample]) -> Loss:
    r"""
    :param ann: the reference, in evaluation mode
    :param held: samples that say how large its outputs are
    :return: the relative squared error of the outputs, a mean over the floating ones among them,
        :math:`\overline{(y - y^*)^2} / \mathrm{var}(y^*)`
    :raises DataError: if the ANN returns no tensor of floats
    """
    with torch.no_grad(), as_data_error(lambda: "the ANN cannot be run on the held-out samples"):
        answers = [_floats(ann.answer(sample.call)) for sample in held]
    # a rank may have no held-out samples
    found = [each for each in ranks.objects([_moments(y) for y in zip(*answers, strict=True)]) if each]
    deviations = [_deviation(moments) for moments in zip(*found, strict=True)]
    if not deviations:
        raise DataError("the ANN returns no tensor of floats, so there is nothing to come nearer to: give loss=")

    def distance(sample: Sample, answer: object) -> Tensor:
        with torch.no_grad():
            targets = _floats(ann.answer(sample.call))
        pairs = zip(_floats(answer), targets, deviations, strict=True)
        errors = [((y - target) / deviation).square().mean() for y, target, deviation in pairs]
        return reduce(torch.add, errors) / len(deviations)

    return distance


def measure_of(loss: Callable[[object, object], Tensor] | None, ann: Network | None, held: Iterable[Sample]) -> Loss:
    """The user's ``loss``; without one the distance from ``ann``, as :func:`distance_from`."""
    if loss is not None:
        return loss_of(loss)
    assert ann is not None  # fine_tune takes one or the other
    return distance_from(ann, held)


def loss_of(function: Callable[[object, object], Tensor]) -> Loss:
    """
    :param function: takes what the network returns, and the target that the loader gives beside the input
    :return: its values
    """

    def loss(sample: Sample, answer: object) -> Tensor:
        """The user's loss, checked, with the target where the output is."""
        device = main_tensor(answer).device
        target = sample.target.to(device) if isinstance(sample.target, Tensor) else sample.target
        value = function(answer, target)
        if (
            not isinstance(value, Tensor)
            or value.numel() != 1
            or not (value.requires_grad or not torch.is_grad_enabled())
        ):
            raise ConfigError(
                f"loss: a tensor of one number, with a gradient, is needed; the function returned {value!r}"
            )
        return value.reshape(())

    return loss


def _floats(answer: object) -> list[Tensor]:
    leaves = (leaf for leaf in tree_leaves(answer) if isinstance(leaf, Tensor) and leaf.is_floating_point())
    return [leaf if leaf.dtype == torch.float64 else leaf.float() for leaf in leaves if leaf.numel()]


def _moments(outputs: tuple[Tensor, ...]) -> tuple[int, float, float, float]:
    """Of one output over some samples: how many values, their mean, their variance, and the largest magnitude."""
    values = torch.cat([exact(y).flatten() for y in outputs])
    return len(values), float(values.mean()), float(values.var(correction=0)), float(values.abs().max())


def _deviation(parts: tuple[tuple[int, float, float, float], ...]) -> float:
    """The standard deviation of one output over all parts; of a constant one its size, or 1 where that is 0."""
    total = sum(count for count, *_ in parts)
    mean = sum(count * own for count, own, *_ in parts) / total
    variance = sum(count * (spread + (own - mean) ** 2) for count, own, spread, _ in parts) / total
    return variance**0.5 or max(largest for *_, largest in parts) or 1.0
