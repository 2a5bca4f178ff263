"""Gradient steps on one block of the spiking network."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ... import ranks
from ...parameters import exact
from ..data.cache import Spooled
from ..data.outliers import usual_images
from .descent import Descent
from .sampling import spread

_EPOCHS = 5
_AVERAGED = 2 / 3  # share of the steps, the last, over which parameters are averaged
_RATE = 0.012  # size of a step, relative to the weights, for a relative error of 1
_OF_OTHERS = 0.3  # that share of it for what has one value a channel: biases, and all that belongs to neurons
_SMALLEST = 0.01  # of a threshold's first value: it stays positive
_NOTHING = 1e-6  # relative error; less is rounding
_SEEN = 4  # one part of so many tells how large the error is


class BlockFit:
    """
    The relative squared error of a block's output.

    :param block: the block of the spiking network; gives a tuple
    :param output: which item of it counts
    :param inputs: of each of its arguments the values, part by part
    :param targets: the ANN's output of the block, part by part
    :param see: what becomes of the output, such as an activation. Errors behind it count
    :param weights: of the squared errors, part by part, broadcastable to what becomes of the output; ``None``: 1
    """

    def __init__(
        self,
        block: nn.Module,
        output: int,
        inputs: Sequence[Spooled[Tensor]],
        targets: Spooled[Tensor],
        see: Callable[[Tensor], Tensor],
        weights: Sequence[Tensor] | None,
    ) -> None:
        self.block, self.output, self.inputs, self.targets = block, output, inputs, targets
        self.see, self.weights = see, weights
        self.usual = usual_images(targets)
        moments = torch.stack([_moments(exact(see(self._usual(y, part)))) for part, y in enumerate(targets)])
        count, total, square = ranks.total(moments.sum(0)).tolist()
        self.variance = square / count - (total / count) ** 2 if count else 0.0

    def error(self, part: int) -> Tensor:
        """The error in one part."""
        output = self.block(*(values[part] for values in self.inputs))[self.output]
        squares = (self.see(output) - self.see(self.targets[part])).square()
        if self.weights is not None:
            squares = squares * self.weights[part]
        squares = self._usual(squares, part)
        return squares.sum() / max(1, squares.numel()) / self.variance

    def _usual(self, values: Tensor, part: int) -> Tensor:
        """Without outliers."""
        return values if self.usual is None else values[self.usual[part]]

    def train(
        self,
        weights: list[nn.Parameter],
        others: list[nn.Parameter],
        thresholds: list[nn.Parameter],
        generator: torch.Generator,
    ) -> None:
        """
        Adam, with steps in proportion to the root of the error, and the averages of the parameters over the last two
        thirds of the steps. A block that this has made worse stays as it was.

        :param weights: of layers
        :param others: biases and parameters of neurons; they get smaller steps
        :param thresholds: those of ``others`` that must stay positive
        :param generator: of the order of the parts
        """
        count = len(self.targets)
        seen = spread(count, -(-count // _SEEN), generator)[0].tolist()
        if not weights or self.variance <= 0:
            return
        before = self._mean_error(seen)
        if not _NOTHING < before < float("inf"):
            return
        trained = [*weights, *others]
        kept = [p.detach().clone() for p in trained]
        descent = Descent(trained, _RATE * before**0.5, [1.0] * len(weights) + [_OF_OTHERS] * len(others))
        least = [(p, p.detach() * _SMALLEST) for p in thresholds]
        most = int(ranks.largest(torch.tensor(count)))  # of the ranks; those with fewer parts skip some steps
        order = torch.cat([torch.randperm(most, generator=generator) for _ in range(_EPOCHS)]).tolist()
        first = int(len(order) * (1 - _AVERAGED))
        for p in trained:
            p.requires_grad_(True)
        for step, part in enumerate(order):
            with torch.enable_grad():
                loss, images = (self.error(part), len(self.targets[part])) if part < count else (None, 0)
                descent.step(loss, average=step >= first, images=images)
            for p, value in least:
                p.data.clamp_(min=value)
        for p, mean in zip(trained, descent.averages(), strict=True):
            p.requires_grad_(False)
            p.data.copy_(mean)
        if not self._mean_error(seen) < before:
            for p, value in zip(trained, kept, strict=True):
                p.data.copy_(value)

    @torch.no_grad()
    def _mean_error(self, parts: list[int]) -> float:
        total, count = ranks.total_of(sum(float(self.error(part)) for part in parts), len(parts))
        return total / count


def _moments(y: Tensor) -> Tensor:
    return torch.stack([y.new_tensor(y.numel()), y.sum(), y.square().sum()])
