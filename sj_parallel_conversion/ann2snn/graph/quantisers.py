"""Hand-written quantisers: a formula that gives evenly spaced levels from 0 up is a trained QCFS."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor

from ...neuron.activations import QCFS
from .formula import Formula

_MOST_LEVELS = 4096


class RecognisedQCFS(QCFS):
    """
    A quantiser of the user's own, recognised by what it computes.

    :param levels: number of levels above zero
    :param v_threshold: theta, a scalar or ``[C]``
    :param psi: its shift
    :param formula: as it was captured; it gives the values
    """

    def __init__(self, levels: int, v_threshold: Tensor, psi: Tensor, formula: Formula) -> None:
        super().__init__(levels, v_threshold, psi)
        self.formula = formula

    def forward(self, x: Tensor) -> Tensor:
        """:param x: ``[N, ...]``. :return: the same shape"""
        return self.formula(x)


@torch.no_grad()
def recognise(formula: Formula, largest: float) -> QCFS | Formula:
    r"""
    :param formula: an activation
    :param largest: the largest input of the calibration data
    :return: a :class:`RecognisedQCFS` if it is a quantiser with L levels above zero,
        :math:`\theta / L \, \mathrm{clip}(\lfloor (x L + \psi) / \theta \rfloor, 0, L)`, otherwise ``formula``
    """
    if formula.example and max(formula.example) > 1:
        return formula  # constants that differ by channel
    like = next((t for t in [*formula.parameters(), *formula.buffers()] if t.is_floating_point()), torch.empty(0))
    # large inputs of a formula such as |x| - |x - theta|, and the edges of steps, need more digits than it has
    probe = copy.deepcopy(formula).to("cpu", torch.float64)

    def f(x: Tensor) -> Tensor:
        return probe(x).double()

    top = _top(f, largest)
    if top is None:
        return formula
    theta, reach = top
    found = _levels(f, theta, reach)
    if found is None:
        return formula
    levels, psi = found
    return RecognisedQCFS(levels, torch.tensor(theta).to(like), torch.tensor(psi).to(like), formula).eval()


def _top(f: Callable[[Tensor], Tensor], largest: float) -> tuple[float, float] | None:
    """The greatest value, and an input that gives it; ``None`` if there is no such value, or 0 is not the least."""
    far = max(abs(largest), 1.0) * torch.logspace(0, 6, 25, dtype=torch.float64)
    high, low = f(far), f(-far)
    if not (high.isfinite().all() and (low == 0).all() and high[-1] > 0 and high[-1] == high[-2]):
        return None
    return float(high[-1]), float(far[(high == high[-1]).nonzero()[0, 0]])


def _levels(f: Callable[[Tensor], Tensor], theta: float, reach: float) -> tuple[int, float] | None:
    """The number of levels, and psi; ``None`` if values are not evenly spaced."""
    values = f(torch.linspace(0, min(reach, 4 * theta), 65_537, dtype=torch.float64)).unique()
    levels = len(values) - 1
    if not 1 <= levels <= _MOST_LEVELS or values[0] != 0:
        return None
    even = torch.arange(levels + 1, dtype=torch.float64) * theta / levels
    if not torch.allclose(values, even, rtol=1e-5, atol=1e-6 * theta):
        return None
    # the inputs from which on each level is reached
    low = torch.full((levels,), -2 * theta, dtype=torch.float64)
    high = torch.full((levels,), max(reach, 2 * theta), dtype=torch.float64)
    wanted = even[1:] - theta / levels / 2
    for _ in range(60):
        middle = (low + high) / 2
        reached = f(middle) > wanted
        low, high = torch.where(reached, low, middle), torch.where(reached, middle, high)
    k = torch.arange(1, levels + 1, dtype=torch.float64)
    psi = k * theta - high * levels
    if (psi - psi.mean()).abs().max() > 1e-4 * theta or not -theta <= psi.mean() <= 2 * theta:
        return None
    return levels, float(psi.mean())
