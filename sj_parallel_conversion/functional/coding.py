r"""Codes: how an integer level is written as a train of T spikes, and read back.

A code fixes weights :math:`w_t` and symbols; the level of a train is :math:`k = \sum_t w_t s_t`.

============  ======================  ==========  ==========  =====================================
code          weights                 symbols     max. level  source
============  ======================  ==========  ==========  =====================================
sorted        1, 1, ..., 1            0, 1        T           parallel conversion (ICML 2025), eq. of s_t
binary        2^(T-1), ..., 2, 1      0, 1        2^T - 1     SpikePack (ICCV 2025)
signed_digit  2^(T-1), ..., 2, 1      -1, 0, 1    2^T - 1     Canonic Signed Spikes (arXiv 2408.17245)
============  ======================  ==========  ==========  =====================================

A new code is one more row in :data:`CODES`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import ConfigError
from ..parameters import as_integer

MAX_WEIGHTED_STEPS = 24  # levels up to 2^24 are exact in float32
MAX_STEPS = 2**MAX_WEIGHTED_STEPS


@dataclass(frozen=True)
class Code:
    """
    One way to write a level as a spike train.

    :param name: the row's name in :data:`CODES`
    :param symbols: the values a spike can take
    :param base: the spike of step t weighs ``base^(T-t)``
    :param digits: ``(level, T) -> train``: int32 ``[N, ...]`` to int8 ``[T, N, ...]``, first step first; ``None`` for a
        code that is defined by its neuron's loop alone
    """

    name: str
    symbols: tuple[int, ...]
    base: float
    digits: Callable[[Tensor, int], Tensor] | None

    @property
    def weighted(self) -> bool:
        """Whether the spikes of different steps weigh differently."""
        return self.base != 1

    def weights(self, T: int) -> list[float]:
        """The weight of the spike at each of ``T`` steps; integers where the base is one."""
        return [self.base ** (T - t) for t in range(1, T + 1)]

    def max_level(self, T: int) -> float:
        """The largest level that ``T`` steps can carry."""
        return sum(self.weights(T))

    def levels_per_threshold(self, T: int) -> int:
        """How many levels make up ``v_threshold``: T for the sorted code (the paper's theta), 1 for weighted ones."""
        return 1 if self.weighted else T

    def check_steps(self, T: int) -> int:
        """
        :param T: an integer of any kind
        :return: the same as an int
        :raises ConfigError: if ``T`` is not an integer >= 1, or too long for float32 to hold the levels
        """
        steps = as_integer(T)
        if steps is None or steps < 1:
            raise ConfigError(f"T (time_steps) must be an integer >= 1, got {T!r}")
        if self.weighted and steps > MAX_WEIGHTED_STEPS:
            raise ConfigError(
                f"T={T} is too long for the {self.name} code: T steps make 2^T levels, and float32 tells 2^"
                f"{MAX_WEIGHTED_STEPS} apart. Take T <= {MAX_WEIGHTED_STEPS}; 8 steps are 256 levels already"
            )
        if steps > MAX_STEPS:
            raise ConfigError(f"T={T} is too long: float32 tells {MAX_STEPS} levels apart. Take fewer time-steps")
        return steps


# Trains are made and read in byte arithmetic, many at a time: comparisons, and sums that widen, take
# five to fifty times as long.
def _sorted_digits(level: Tensor, T: int) -> Tensor:
    # Step t asks "is the count above T-t?": zeros first, then ones.
    level = level.to(torch.int8) if T <= 127 else level
    later = torch.arange(T - 1, -1, -1, dtype=level.dtype, device=level.device)
    return (level - later.view(-1, *[1] * level.dim())).clamp_(0, 1).to(torch.int8)


def _bits(level: Tensor, T: int) -> Tensor:
    if T > 8:
        order, inverse = _memory_order(level)
        level = level.permute(order)  # torch.cat knows no other layout
        return torch.cat([_bits(level >> 8, T - 8), _bits(level & 255, 8)]).permute(0, *(d + 1 for d in inverse))
    masks = torch.tensor([1 << t for t in range(T - 1, -1, -1)], dtype=torch.uint8, device=level.device)
    return (level.to(torch.uint8) & masks.view(-1, *[1] * level.dim())).clamp_(max=1).view(torch.int8)


def _signed_digits(level: Tensor, T: int) -> Tensor:
    largest = 2**T - 1
    if level.numel() <= 4 * largest:
        plus, minus = _signed_words(level, T)
    else:  # a table of all levels costs less than the arithmetic on so many
        every = torch.arange(-largest, largest + 1, dtype=torch.int32, device=level.device)
        row = (level + largest).clamp_(0, 2 * largest)  # NaN has become a level far out of range
        plus, minus = (_look_up(words, row) for words in _signed_words(every, T))
    return _bits(plus, T).sub_(_bits(minus, T))


def _look_up(table: Tensor, row: Tensor) -> Tensor:
    order, inverse = _memory_order(row)
    row = row.permute(order)
    return table.index_select(0, row.reshape(-1)).view(row.shape).permute(inverse)


def _memory_order(x: Tensor) -> tuple[list[int], list[int]]:
    """The permutation that makes ``x`` lie in memory in order, and the one that takes it back."""
    order = sorted(range(x.dim()), key=x.stride, reverse=True)
    return order, [order.index(d) for d in range(x.dim())]


def _signed_words(level: Tensor, T: int) -> tuple[Tensor, Tensor]:
    """The places of the positive digits and of the negative ones, each as the bits of a word."""
    # The non-adjacent form is (3k - k) / 2 digit by digit.
    level = level.to(torch.int16) if T <= 14 else level
    k = level.abs()
    half, more = k >> 1, k + (k >> 1)
    plus, minus = more & ~half, half & ~more
    # Where it would need a digit of weight 2^T, that digit and the next non-zero one, -2^j, become ones from T-1 down
    # to j: as few digits as T places allow.
    overflow = -(more >> T)  # all bits, or none
    below = minus >> 1  # made to be all bits below j
    for shift in (1, 2, 4, 8, 16):
        if shift < T:
            below |= below >> shift
    plus |= overflow & ~below
    minus &= below | ~overflow
    swap = (plus ^ minus) & (level >> torch.iinfo(level.dtype).bits - 1)  # where the level is negative
    return plus ^ swap, minus ^ swap


CODES: dict[str, Code] = {
    code.name: code
    for code in (
        Code("sorted", (0, 1), 1, _sorted_digits),
        Code("binary", (0, 1), 2, _bits),
        Code("signed_digit", (-1, 0, 1), 2, _signed_digits),
    )
}


class _EncodeLike(torch.autograd.Function):
    # Backward: the least-squares inverse of decode, so that decode(encode(k)) has derivative 1.

    @staticmethod
    def forward(ctx: Any, train: Tensor, level: Tensor, weights: list[float]) -> Tensor:
        ctx.weights = weights
        return train.view_as(train)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, None]:
        weights = grad.new_tensor(ctx.weights)
        return None, torch.tensordot(weights / weights.square().sum(), grad, dims=1), None


def encode_like(train: Tensor, level: Tensor, code: Code) -> Tensor:
    r"""
    :param train: spikes ``[T, N, ...]``
    :param level: the level ``[N, ...]`` that they stand for
    :param code: a row of :data:`CODES`
    :return: ``train`` in the dtype of ``level``, NaN where the level is NaN, each step laid out in memory as ``level``,
        with the gradient of an encoder of ``level``, the least-squares inverse of :func:`decode`:
        :math:`\partial s_t / \partial k = w_t / \sum w^2`
    """
    train = torch.where(level.isnan(), level.detach(), train)
    if train[0].stride() != level.stride():
        # Axes of size 1 count too: by their strides a convolution guesses the layout, and rounds accordingly.
        strides = (max(level.numel(), 1), *torch.empty_like(level).stride())
        train = train.new_empty_strided(train.shape, strides).copy_(train)
    if torch.is_grad_enabled() and level.requires_grad:
        return _EncodeLike.apply(train, level, code.weights(train.shape[0]))
    return train


def encode(level: Tensor, code: Code, T: int, signed: bool = False) -> Tensor:
    r"""
    Write integer levels as spike trains.

    :param level: integers ``[N, ...]`` in ``0..code.max_level(T)`` (``signed_digit`` also takes their negatives), in
        a floating dtype
    :param code: a row of :data:`CODES`
    :param T: number of time-steps
    :param signed: take negative levels in every code: a pair of trains, the magnitude in the positive or in the
        negative one, written in one tensor of {-1, 0, 1} because at most one of the two ever fires
    :return: train ``[T, N, ...]`` of the same dtype, with values in ``code.symbols``, or in {-1, 0, 1} if ``signed``,
        and NaN at every step where the level is NaN; its gradient is that of :func:`encode_like`
    """
    return encode_like(encode_bytes(level, code, T, signed), level, code)


def encode_bytes(level: Tensor, code: Code, T: int, signed: bool = False) -> Tensor:
    """
    :func:`encode` without a gradient, in int8: a quarter of the memory, and :func:`decode` reads it fastest. A byte
    holds no NaN: such levels emit no spike that means anything.
    """
    k, digits = level.detach().to(torch.int32), code.digits
    assert digits is not None, f"the {code.name} code with base {code.base} is written by its neuron's loop alone"
    if signed and -1 not in code.symbols:
        return digits(k.abs(), T) * k.sign().to(torch.int8)
    return digits(k, T)


def greedy_digits(u: Tensor, weights: list[float]) -> Tensor:
    r"""
    SpikePack's loop: :math:`s_t = H(u - q_t)`, :math:`u \leftarrow u - q_t s_t`, most significant first.

    :param u: charge in units of the threshold, ``[N, ...]``
    :param weights: q
    :return: train ``[T, N, ...]`` of the same dtype, NaN where ``u`` is
    """
    train = []
    for q in weights:
        train.append(torch.where(u.isnan(), u, (u >= q).to(u.dtype)))
        u = u - q * train[-1]
    return torch.stack(train)


def decode(train: Tensor, code: Code, dtype: torch.dtype | None = None) -> Tensor:
    r"""
    Read levels back from spike trains: :math:`k = \sum_t w_t s_t`.

    :param train: ``[T, N, ...]`` with values in ``code.symbols``, any dtype
    :param code: a row of :data:`CODES`
    :param dtype: of the result, float32 or float64; by default float32 (float64 for a float64 train)
    :return: ``[N, ...]``: exact integers
    """
    dtype = dtype or (torch.float64 if train.dtype == torch.float64 else torch.float32)
    if train.dtype == torch.int8 and code.base in _PLACES:
        return _laid_out_as(train[0], _decode_bytes(train, code, dtype))
    if not code.weighted:
        return _laid_out_as(train[0], train.sum(0, dtype=dtype))
    # Digit by digit, and not as a product of matrices, which counters of operations would take for synapses.
    level = train[0].to(dtype)
    for digit in train[1:]:
        level = torch.add(digit.to(dtype), level, alpha=code.base)
    return _laid_out_as(train[0], level)


# How many digits of a base fit into a byte.
_PLACES: dict[float, int] = {1: 127, 2: 7}


def _decode_bytes(train: Tensor, code: Code, dtype: torch.dtype) -> Tensor:
    order, inverse = _memory_order(train[0])
    train = train.permute(0, *(d + 1 for d in order))  # sums of what lies side by side in memory

    def read(digits: Tensor) -> Tensor:
        if code.weighted:
            weights = torch.tensor(code.weights(len(digits)), dtype=torch.int8, device=train.device)
            digits = digits * weights.view(-1, *[1] * len(order))
        return digits.sum(0, dtype=torch.int8).to(dtype)

    first, *rest = train.split(_PLACES[code.base])
    level = read(first)
    for digits in rest:
        level = level * code.base ** len(digits) + read(digits)
    return level.permute(inverse)


def _laid_out_as(step: Tensor, level: Tensor) -> Tensor:
    # Sums come out contiguous. A convolution chooses its kernel, and so its rounding, by the memory layout; values
    # that differ in the last bit can fall on different sides of a step in the next neuron.
    return level if level.stride() == step.stride() else torch.empty_like(step, dtype=level.dtype).copy_(level)
