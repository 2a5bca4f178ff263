"""Frames of an input that changes over time: from ``[T, N, ...]`` to the one value ``[N, ...]`` that a network sees."""

from __future__ import annotations

import math
from numbers import Real

import torch
from torch import Tensor

from ..errors import ConfigError, DataError
from ..parameters import float_type
from .coding import MAX_WEIGHTED_STEPS
from .quantise import finite_start, full_precision


def check_frame_tau(tau: object) -> None:
    """:raises ConfigError: if ``tau`` is no base of frames' weights"""
    if isinstance(tau, bool) or not isinstance(tau, Real) or not 1 <= float(tau) < float("inf"):
        raise ConfigError(
            f"frame_tau must be a number >= 1 (1: all frames count alike, 2: as the spikes of SpikePack), got {tau!r}"
        )


def frame_weights(T: int, tau: float) -> list[float]:
    r"""
    :param T: number of frames
    :param tau: frame t weighs :math:`q_t = \tau^{T-t}`
    :return: the weights, divided by their sum
    :raises ConfigError: if ``tau`` is out of range, or float32 would lose the last frames
    """
    check_frame_tau(tau)
    if (T - 1) * math.log(tau) > math.log(2**MAX_WEIGHTED_STEPS):
        raise ConfigError(
            f"frame_tau={tau} is too large for T={T}: the first frame would weigh more than 2^{MAX_WEIGHTED_STEPS} "
            "times as much as the last one, which float32 then loses. Take fewer frames, or a smaller base"
        )
    q = [tau ** (T - t) for t in range(1, T + 1)]
    return [weight / sum(q) for weight in q]


def pack_frames(x_seq: Tensor, frame_tau: float = 2.0) -> Tensor:
    r"""
    SpikePack's packing of the input: one frame that holds the order of many,

    .. math:: x = \frac{\sum_t q_t x_t}{\sum_t q_t}, \qquad q_t = \tau^{T-t}

    The paper has the sum alone. The mean keeps the range of the input, and frames that are all the same give exactly
    that frame.

    :param x_seq: frames ``[T, N, ...]``, floats or integers
    :param frame_tau: base of the weights, at least 1. With 2, frames of zeros and ones become T-bit numbers: the
        history of each pixel, its first frame in front. With 1 it is the mean frame, which holds no order
    :return: ``[N, ...]``, what to train and to calibrate on
    :raises ConfigError: if ``frame_tau`` is out of range, or too large for so many frames
    :raises DataError: if ``x_seq`` is no tensor with a time axis
    """
    if not isinstance(x_seq, Tensor) or x_seq.dim() == 0 or not len(x_seq) or x_seq.is_complex():
        got = f"shape {list(x_seq.shape)}" if isinstance(x_seq, Tensor) else type(x_seq).__name__
        raise DataError(f"frames are a tensor [T, N, ...] of real numbers, got {got}")
    weights, dtype = frame_weights(len(x_seq), frame_tau), float_type(x_seq)
    if x_seq.stride(0) == 0:
        return x_seq[0].to(dtype)
    start = finite_start(full_precision(x_seq[:1].to(dtype)))
    if frame_tau == 1:
        return (start + (full_precision(x_seq.to(dtype)) - start).mean(0)).to(dtype)
    difference = torch.zeros_like(start)
    for x, weight in zip(x_seq, weights, strict=True):
        difference = torch.add(difference, x.to(start.dtype) - start, alpha=weight)
    return (start + difference).to(dtype)


def amplify_frames(x_seq: Tensor, tau: float) -> list[Tensor]:
    """
    :param x_seq: frames ``[T, N, ...]``, floats
    :param tau: base of the weights
    :return: T frames, each as strong as it counts: their plain mean is :func:`pack_frames`
    """
    T = len(x_seq)
    return [x if tau == 1 else x * (T * w) for x, w in zip(x_seq, frame_weights(T, tau), strict=True)]
