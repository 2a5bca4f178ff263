"""Frames that are packed into one: order, constant inputs, integers, gradients, and what is refused."""

from __future__ import annotations

import pytest
import torch

import sj_parallel_conversion as sjpc
from sj_parallel_conversion.functional import amplify_frames

FRAMES = torch.rand(5, 2, 3, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("tau", [1, 1.5, 2, 3.0])
def test_the_weighted_mean(tau: float) -> None:
    q = torch.tensor([tau ** (5 - t) for t in range(1, 6)]).view(-1, 1, 1)
    torch.testing.assert_close(sjpc.pack_frames(FRAMES, tau), (q * FRAMES).sum(0) / q.sum())
    torch.testing.assert_close(sum(amplify_frames(FRAMES, tau)) / 5, sjpc.pack_frames(FRAMES, tau))


def test_every_order_of_events_has_a_value_of_its_own() -> None:
    """The frames of a pixel are the digits of a number, the first one in front; their mean is a count."""
    words = torch.cartesian_prod(*[torch.tensor([0, 1], dtype=torch.uint8)] * 6).T
    numbers = sjpc.pack_frames(words) * (2**6 - 1)
    assert numbers.dtype == torch.float32
    torch.testing.assert_close(numbers, torch.arange(64.0))
    assert len((sjpc.pack_frames(words, 1) * 6).round(decimals=3).unique()) == 7


@pytest.mark.parametrize("tau", [1, 2])
def test_frames_that_are_all_the_same_are_that_frame(tau: float) -> None:
    x = FRAMES[0]
    assert torch.equal(sjpc.pack_frames(x.repeat(7, 1, 1), tau), x)
    assert torch.equal(sjpc.pack_frames(x.expand(7, 2, 3), tau), x)
    assert torch.equal(sjpc.pack_frames(x.expand(1, 2, 3), tau), x)


def test_types_and_gradients() -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        assert sjpc.pack_frames(FRAMES.to(dtype)).dtype == dtype
    x_seq = FRAMES.clone().requires_grad_()
    sjpc.pack_frames(x_seq).sum().backward()
    torch.testing.assert_close(x_seq.grad[:, 0, 0], torch.tensor([16, 8, 4, 2, 1.0]) / 31)


@pytest.mark.parametrize(
    "x_seq", [None, torch.tensor(1.0), torch.zeros(0, 2), torch.zeros(3, 2, dtype=torch.complex64)]
)
def test_what_is_no_sequence_is_refused(x_seq: object) -> None:
    with pytest.raises(sjpc.DataError, match=r"frames are a tensor \[T, N, ...\]"):
        sjpc.pack_frames(x_seq)


def test_weights_that_lose_the_last_frame_are_refused() -> None:
    sjpc.pack_frames(torch.zeros(25, 1))
    with pytest.raises(sjpc.ConfigError, match=r"frame_tau=2\.0 is too large for T=26"):
        sjpc.pack_frames(torch.zeros(26, 1))
    with pytest.raises(sjpc.ConfigError, match="number >= 1"):
        sjpc.pack_frames(torch.zeros(2, 1), 0.5)
