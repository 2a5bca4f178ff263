"""The parallel neuron (ICML 2025) in the forms that its paper gives, to compare with the package's closed form."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def _over_time(values: Tensor, x_seq: Tensor) -> Tensor:
    return values.view(-1, *[1] * (x_seq.dim() - 1))


def _remaining(x_seq: Tensor) -> Tensor:
    """T - t + 1 for t = 1..T."""
    return _over_time(torch.arange(len(x_seq), 0, -1, dtype=x_seq.dtype), x_seq)


def matrix(x_seq: Tensor, v_threshold: float, psi: float) -> Tensor:
    r"""
    :math:`s_t = H((\Lambda_{post} \Lambda_{pre} I)_t + \psi / (T-t+1) - \theta)`: O(T^2) multiplications.

    :param x_seq: currents ``[T, N, ...]``
    :param v_threshold: theta
    :param psi: initial charge
    :return: spikes ``[T, N, ...]``
    """
    T = len(x_seq)
    t = torch.arange(1, T + 1, dtype=x_seq.dtype)
    pre = torch.full((T, T), 1 / T, dtype=x_seq.dtype)
    post = (T / (t * (T - t + 1))).unsqueeze(1) * torch.ones(T, T, dtype=x_seq.dtype).tril()
    charge = ((post @ pre) @ x_seq.flatten(1)).view_as(x_seq)
    return (charge + psi / _remaining(x_seq) >= v_threshold).to(x_seq.dtype)


def hadamard(x_seq: Tensor, v_threshold: float, psi: float) -> Tensor:
    """The same, with the rows of the matrix, which are constant, as factors of one sum: O(T). As :func:`matrix`."""
    return ((x_seq.sum(0) + psi) / _remaining(x_seq) >= v_threshold).to(x_seq.dtype)


def binary_search(x_seq: Tensor, v_threshold: float, psi: float) -> Tensor:
    """The same, with the first spike found in O(log T) comparisons: trains are sorted. As :func:`matrix`."""
    T, charge = len(x_seq), x_seq.sum(0) + psi
    low, high = torch.zeros_like(charge), torch.full_like(charge, T)  # the first spike's step, counted from 0
    for _ in range(T.bit_length()):
        middle = ((low + high) / 2).floor_()
        fires = charge >= v_threshold * (T - middle)
        low, high = torch.where(fires | (low >= high), low, middle + 1), torch.where(fires, middle, high)
    steps = _over_time(torch.arange(T, dtype=x_seq.dtype), x_seq)
    return (steps >= high).to(x_seq.dtype)


FORMS: dict[str, Callable[[Tensor, float, float], Tensor]] = {
    "matrix": matrix,
    "Hadamard product": hadamard,
    "Hadamard product, binary search": binary_search,
}
