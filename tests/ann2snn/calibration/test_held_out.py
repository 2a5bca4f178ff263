"""Which images are held out."""

from __future__ import annotations

import pytest
import torch

from sj_parallel_conversion.ann2snn.calibration.held_out import HeldOut
from sj_parallel_conversion.ann2snn.data.inputs import Batch


def masks(batches: list[torch.Tensor], lengths: list[int] | None = None) -> list[list[bool]]:
    held_out = HeldOut(torch.Generator().manual_seed(0))
    given = [Batch((x,), (True,)) for x in batches]
    assert all(seen is batch for seen, batch in zip(held_out.watch(given), given, strict=True))
    return [mask.tolist() for mask in held_out.masks(lengths or [len(x) for x in batches])]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int64])
def test_one_of_each_eight_images_counted_over_batches(dtype: torch.dtype) -> None:
    first, second = masks(list(torch.arange(20).to(dtype).view(20, 1, 1).split(12)))
    held = [i for i, mask in enumerate(first + second) if mask]
    assert len({i // 8 for i in held} & {0, 1}) == 2, "one of each eight"
    assert len(held) <= 3


def test_no_period_of_the_data_decides() -> None:
    (held,) = masks([torch.arange(800.0)])
    assert len({i % 8 for i, mask in enumerate(held) if mask}) == 8


def test_copies_are_on_the_same_side() -> None:
    images = torch.randn(12, 3, 2, 2)
    x = images[torch.arange(60) % 12]
    (held,) = masks([x])
    sides = torch.tensor(held).view(5, 12)
    assert (sides == sides[0]).all()
    assert 0 < sides[0].sum() <= 2


def test_one_of_few() -> None:
    assert sum(masks([torch.arange(3.0)])[0]) == 1
    assert masks([torch.zeros(3, 2)]) == [[True, True, True]]


def test_parts_of_an_image_go_with_it() -> None:
    first, second = masks([torch.arange(2.0), torch.arange(2.0, 4)], [4, 2])
    by_image = [first[:2], first[2:], second[:1], second[1:]]
    assert all(len(set(parts)) == 1 for parts in by_image)
    assert sum(parts[0] for parts in by_image) == 1
