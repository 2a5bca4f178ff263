"""Gradient steps whose size is relative to that of what they change."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ... import ranks
from ...parameters import exact
from .pruning import kept_weights


class Descent:
    """
    Adam, with a step for each parameter that is proportional to its root mean square. So one rate does for layers of
    all scales. Of parameters with one value a channel the median is taken, as a few channels may have values that are
    hundreds of times larger. The zeros of a pruned parameter stay zeros. A parameter of nothing but zeros has no scale:
    its rate is taken as it is.

    Parameters can be averaged over some of the steps. Gradients through a quantiser are noisy, and where steps stay
    large the average of the parameters is better than the last ones.

    :param parameters: they are changed, and need gradients
    :param rate: size of a step, relative to a parameter; the attribute can be set later
    :param shares: of the rate, one for each parameter; ``None``: 1
    """

    def __init__(self, parameters: list[nn.Parameter], rate: float = 0.0, shares: list[float] | None = None) -> None:
        self.parameters, self.rate = parameters, rate
        self._shares = [1.0] * len(parameters) if shares is None else shares
        self._kept = [kept_weights(p) if _is_matrix(p) and p.any() else None for p in parameters]
        self._sizes = [_size(p.detach()) or 1.0 for p in parameters]
        self._optimiser = torch.optim.Adam([{"params": [p]} for p in parameters], betas=(0.9, 0.99))
        self._averages = [p.detach().clone() for p in parameters]
        self._averaged = 0

    def step(self, loss: Tensor | None, share: float = 1.0, average: bool = False, images: int = 1) -> None:
        """
        :param loss: its gradient is followed, the mean over all ranks. ``None``: this one has no images in this step
        :param share: of the rate
        :param average: whether the average includes the parameters after this step
        :param images: how many the loss is a mean of: what it counts among those of the other ranks
        """
        self._optimiser.zero_grad()
        if loss is not None:
            loss.backward()
        if ranks.count() > 1:
            gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]
            for p, gradient in zip(self.parameters, gradients, strict=True):
                p.grad = gradient
            ranks.average(gradients, 0 if loss is None else images)
        for p, kept, size in zip(self.parameters, self._kept, self._sizes, strict=True):
            if p.grad is not None:  # Adam has a constant for gradients that are small, whatever their units
                p.grad.mul_(size if kept is None else kept * size)
        for group, size, own in zip(self._optimiser.param_groups, self._sizes, self._shares, strict=True):
            group["lr"] = self.rate * size * share * own
        self._optimiser.step()
        if average:
            self._averaged += 1
            for mean, p in zip(self._averages, self.parameters, strict=True):
                mean.lerp_(p.detach(), 1 / self._averaged)

    def averages(self) -> list[Tensor]:
        """The averages of the parameters; what they were at the beginning, before anything is averaged."""
        return [mean.clone() for mean in self._averages]

    def state_dict(self) -> dict[str, Any]:
        """All that :meth:`load_state_dict` needs to go on, but for the parameters."""
        return {
            "optimiser": self._optimiser.state_dict(),
            "sizes": list(self._sizes),
            "averages": self.averages(),
            "averaged": self._averaged,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """:param state: of :meth:`state_dict`"""
        self._optimiser.load_state_dict(state["optimiser"])
        self._sizes, self._averaged = list(state["sizes"]), state["averaged"]
        for mean, saved in zip(self._averages, state["averages"], strict=True):
            mean.copy_(saved)


def _is_matrix(values: Tensor) -> bool:
    """Whether these are the weights of a layer, and not one value for each channel."""
    return values.squeeze().dim() > 1


def _size(values: Tensor) -> float:
    if not _is_matrix(values):
        values = values[values != 0].abs()
        return float(values.median()) if values.numel() else 0.0
    return float(exact(values).square().mean().sqrt())
