"""What nodes refuse."""

from __future__ import annotations

import pytest
import torch

import sj_parallel_conversion as sjpc
from sj_parallel_conversion import ParallelConversionNode


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"v_threshold": torch.ones(3), "psi": torch.ones(4)}, "different numbers of channels"),
        ({"channel_dim": "a"}, "channel_dim must be an integer"),
        ({"channel_dim": None}, "channel_dim must be an integer"),
    ],
)
def test_arguments_that_cannot_work(options: dict[str, object], words: str) -> None:
    with pytest.raises(sjpc.ConfigError, match=words):
        ParallelConversionNode(4, **options)


@pytest.mark.parametrize("x_seq", [torch.ones(4, 2, dtype=torch.bool), torch.ones(4, 2) * 1j, [1.0] * 4])
def test_inputs_that_are_no_currents(x_seq: object) -> None:
    with pytest.raises(sjpc.DataError, match="needs a tensor of real numbers"):
        ParallelConversionNode(4)(x_seq)
