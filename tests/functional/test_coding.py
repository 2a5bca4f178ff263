"""Codes: every level is written as a train and read back, with the digits that the code promises."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sj_parallel_conversion.errors import ConfigError
from sj_parallel_conversion.functional import CODES, decode, encode, encode_bytes, greedy_digits
from sj_parallel_conversion.functional.coding import MAX_WEIGHTED_STEPS

WEIGHTED = ["binary", "signed_digit"]
FLOATS = [torch.float64, torch.float32]


def all_levels(code_name: str, T: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.arange(CODES[code_name].max_level(T) + 1, dtype=dtype)


@pytest.mark.parametrize("T", range(1, 13))
@pytest.mark.parametrize("code_name", CODES)
@pytest.mark.parametrize("dtype", FLOATS)
def test_every_level_is_read_back(code_name: str, T: int, dtype: torch.dtype) -> None:
    code, levels = CODES[code_name], all_levels(code_name, T, dtype)
    train = encode(levels, code, T)
    assert train.shape == (T, len(levels)) and train.dtype == dtype
    assert set(train.unique().tolist()) <= set(code.symbols)
    assert torch.equal(decode(train, code), levels)


@pytest.mark.parametrize("T", range(1, 13))
def test_negative_levels_of_signed_digits(T: int) -> None:
    code, levels = CODES["signed_digit"], -all_levels("signed_digit", T)
    train = encode(levels, code, T)
    assert torch.equal(decode(train, code), levels)
    assert torch.equal(train, -encode(-levels, code, T))


@pytest.mark.parametrize("T", range(4, 15))
def test_two_thirds_of_the_levels_fit_in_canonical_form(T: int) -> None:
    """Up to there, and no further, no two neighbouring digits are non-zero."""
    train = encode(all_levels("signed_digit", T), CODES["signed_digit"], T)
    canonical, largest = (train[1:] * train[:-1] == 0).all(0), 2 ** (T + 1) // 3
    assert canonical[: largest + 1].all() and not canonical[largest + 1 :].any()


@pytest.mark.parametrize("T", range(1, 4))
def test_no_level_is_shorter_in_signed_digits_of_few_places(T: int) -> None:
    digits = [encode(all_levels(name, T), CODES[name], T).abs().sum(0) for name in WEIGHTED]
    assert torch.equal(*digits)


@pytest.mark.parametrize("code_name", WEIGHTED)
def test_longest_weighted_train(code_name: str) -> None:
    code, T = CODES[code_name], MAX_WEIGHTED_STEPS
    levels = torch.tensor([0.0, 1, 2**T - 1, 2**T - 2, 2 ** (T - 1), 2 ** (T - 1) + 1, 11184811])
    assert torch.equal(decode(encode(levels, code, T), code), levels)


@pytest.mark.parametrize("T", [1, 2, 3, 16, 64])
def test_sorted_trains_are_sorted_and_nested(T: int) -> None:
    train = encode(all_levels("sorted", T), CODES["sorted"], T)
    assert (train[1:] >= train[:-1]).all()  # zeros first, then ones
    assert (train[:, 1:] >= train[:, :-1]).all()  # a larger level fires wherever a smaller one does


@pytest.mark.parametrize("T", range(1, 7))
def test_binary_digits_are_the_binary_number(T: int) -> None:
    train = encode(all_levels("binary", T), CODES["binary"], T)
    for k in range(2**T):
        assert "".join(str(int(s)) for s in train[:, k]) == format(k, f"0{T}b")


@pytest.mark.parametrize("T", range(1, 8))
def test_signed_digits_are_canonic_where_they_fit_and_as_few_as_possible(T: int) -> None:
    code = CODES["signed_digit"]
    words = torch.tensor(list(itertools.product((-1, 0, 1), repeat=T)), dtype=torch.float32)
    values, digits = decode(words.T, code), words.abs().sum(1)
    adjacent = (words[:, 1:] * words[:, :-1]).abs().sum(1) if T > 1 else torch.zeros(len(words))
    train = encode(all_levels("signed_digit", T), code, T)
    for k in range(2**T):
        same = values == k
        assert train[:, k].abs().sum() == digits[same].min(), f"level {k}"
        canonic = words[same & (adjacent == 0)]
        if len(canonic):  # the non-adjacent form is unique
            assert torch.equal(train[:, k], canonic[0]), f"level {k}"


@pytest.mark.parametrize("code_name", CODES)
@given(data=st.data())
def test_any_shape(code_name: str, data: st.DataObject) -> None:
    code = CODES[code_name]
    T = data.draw(st.integers(1, 64 if code_name == "sorted" else MAX_WEIGHTED_STEPS))
    shape = data.draw(st.lists(st.integers(0, 3), max_size=4))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    levels = torch.randint(0, code.max_level(T) + 1, shape, generator=generator).float()
    train = encode(levels, code, T)
    assert train.shape == (T, *shape)
    assert torch.equal(decode(train, code), levels)


@pytest.mark.parametrize("code_name", CODES)
def test_decode_reads_half_precision_trains_exactly(code_name: str) -> None:
    code = CODES[code_name]
    T = 64 if code_name == "sorted" else 16
    levels = torch.arange(0, code.max_level(T) + 1, max(1, code.max_level(T) // 500)).float()
    for dtype in (torch.bfloat16, torch.float16, torch.int8, torch.bool):
        if dtype is torch.bool and code_name == "signed_digit":
            continue
        assert torch.equal(decode(encode(levels, code, T).to(dtype), code), levels)


@pytest.mark.parametrize("T", [1, 3, 8])
@pytest.mark.parametrize("code_name", CODES)
def test_decode_after_encode_has_derivative_one(code_name: str, T: int) -> None:
    code = CODES[code_name]
    levels = all_levels(code_name, T).requires_grad_()
    read = decode(encode(levels, code, T), code)
    assert torch.equal(read, levels)
    (grad,) = torch.autograd.grad(read.sum(), levels)
    torch.testing.assert_close(grad, torch.ones_like(grad))


@pytest.mark.parametrize("T", [0, -1, 2.5, True, "4", None])
@pytest.mark.parametrize("code_name", CODES)
def test_steps_that_are_refused(code_name: str, T: object) -> None:
    with pytest.raises(ConfigError, match=r"time_steps.*integer >= 1") as error:
        CODES[code_name].check_steps(T)
    assert repr(T) in str(error.value)


@pytest.mark.parametrize("code_name", WEIGHTED)
def test_weighted_trains_that_float32_cannot_hold_are_refused(code_name: str) -> None:
    CODES[code_name].check_steps(MAX_WEIGHTED_STEPS)
    with pytest.raises(ConfigError, match=f"{code_name} code"):
        CODES[code_name].check_steps(MAX_WEIGHTED_STEPS + 1)
    CODES["sorted"].check_steps(1000)


@pytest.mark.parametrize(
    ("code_name", "T", "weights", "max_level", "per_threshold"),
    [("sorted", 4, [1, 1, 1, 1], 4, 4), ("binary", 4, [8, 4, 2, 1], 15, 1), ("signed_digit", 3, [4, 2, 1], 7, 1)],
)
def test_table(code_name: str, T: int, weights: list[int], max_level: int, per_threshold: int) -> None:
    code = CODES[code_name]
    assert code.name == code_name
    assert code.weights(T) == weights
    assert code.max_level(T) == max_level
    assert code.levels_per_threshold(T) == per_threshold


@pytest.mark.parametrize("code_name", CODES)
@pytest.mark.parametrize(
    "layout",
    [lambda x: x, lambda x: x.to(memory_format=torch.channels_last), lambda x: x.permute(0, 3, 1, 2), lambda x: x.mT],
)
def test_memory_layout_is_that_of_the_levels(code_name: str, layout) -> None:
    """Or the next convolution takes another kernel than in the ANN, and rounds differently."""
    code = CODES[code_name]
    levels = layout(torch.randint(0, code.max_level(4) + 1, (2, 5, 4, 3)).float())
    read = decode(encode(levels, code, 4), code)
    assert torch.equal(read, levels) and read.stride() == levels.stride()


@pytest.mark.parametrize("code_name", CODES)
@pytest.mark.parametrize("T", [3, 8, 9])
def test_bytes_of_many_levels_in_any_layout(code_name: str, T: int) -> None:
    """Trains of one byte a spike are the same as floats, and keep the memory layout of the levels."""
    code = CODES[code_name]
    low = -code.max_level(T) if code_name == "signed_digit" else 0
    generator = torch.Generator().manual_seed(0)
    levels = torch.randint(low, code.max_level(T) + 1, (4, 9, 16, 16), generator=generator).float()
    for x in (levels, levels.contiguous(memory_format=torch.channels_last), levels.transpose(0, 3)):
        train = encode_bytes(x, code, T)
        assert train.dtype == torch.int8 and train[0].stride() == x.stride()
        assert torch.equal(train.float(), torch.stack([encode(x[i], code, T) for i in range(len(x))], 1))
        level = decode(train, code)
        assert torch.equal(level, x) and level.stride() == x.stride()
        assert decode(train, code, torch.float64).dtype == torch.float64
    few = encode(levels.flatten()[:5], code, T)
    assert torch.equal(few, encode(levels, code, T).flatten(1)[:, :5])


def test_greedy_digits_are_those_of_the_level_below() -> None:
    charges = torch.tensor([-3.0, 0.0, 0.5, 1.0, 2.999, 5.5, 7.0, 100.0, torch.nan])
    train = greedy_digits(charges, CODES["binary"].weights(3))
    expected = encode(charges.nan_to_num(0.0).floor().clamp(0, 7), CODES["binary"], 3)
    assert torch.equal(train[:, :-1], expected[:, :-1]) and train[:, -1].isnan().all()


@pytest.mark.parametrize("T", [15, 16, 20, MAX_WEIGHTED_STEPS])
def test_long_signed_trains(T: int) -> None:
    """Where a borrow goes through many places, those of the largest shifts too."""
    code = CODES["signed_digit"]
    levels = torch.randint(-(2**T) + 1, 2**T, (3000,), generator=torch.Generator().manual_seed(T))
    levels = torch.cat([levels, 2**T - 1 - 2 ** torch.arange(T), 2 ** torch.arange(T) * 3 // 2]).float()
    train = encode(levels, code, T)
    assert torch.equal(decode(train, code), levels)
    assert (train.abs().sum(0) <= encode(levels.abs(), CODES["binary"], T).sum(0)).all()
