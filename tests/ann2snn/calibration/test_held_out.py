"""Which images are held out."""

from __future__ import annotations

import pytest
import torch

from sj_parallel_conversion.ann2snn.calibration.held_out import HeldOut
from sj_parallel_conversion.ann2snn.data.inputs import Batch


def masks(batches: list[torch.Tensor], lengths: list[int] | None = None) -> list[list[bool]]:
    held_out = HeldOut()
    given = [Batch((x,), (True,)) for x in batches]
    assert all(seen is batch for seen, batch in zip(held_out.watch(given), given, strict=True))
    return [mask.tolist() for mask in held_out.masks(lengths or [len(x) for x in batches])]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int64])
def test_every_eighth_image_counted_over_batches(dtype: torch.dtype) -> None:
    first, second = masks(list(torch.arange(20).to(dtype).view(20, 1, 1).split(12)))
    assert [i for i, held in enumerate(first + second) if held] == [7, 15]


def test_copies_are_on_the_same_side() -> None:
    images = torch.randn(12, 3, 2, 2)
    x = images[torch.arange(60) % 12]
    (held,) = masks([x])
    assert [i for i, mask in enumerate(held) if mask] == [7, 19, 31, 43, 55]


def test_one_of_few() -> None:
    assert masks([torch.arange(3.0)]) == [[False, False, True]]
    assert masks([torch.zeros(3, 2)]) == [[True, True, True]]


def test_parts_of_an_image_go_with_it() -> None:
    assert masks([torch.arange(2.0), torch.arange(2.0, 4)], [4, 2]) == [[False] * 4, [False, True]]
