"""Which outputs are scores, and how far two networks' scores are apart."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from sj_parallel_conversion.ann2snn.calibration.score_error import ScoreError, scores
from sj_parallel_conversion.ann2snn.data.cache import Spool
from sj_parallel_conversion.ann2snn.data.inputs import Batch


class Outputs(nn.Module):
    """Gives its inputs, changed."""

    def __init__(self, factor: float = 1.0, offset: float = 0.0) -> None:
        super().__init__()
        self.factor, self.offset = factor, offset

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(x * self.factor + self.offset for x in tensors)


def score_error(*batches: tuple[Tensor, ...]) -> ScoreError:
    parts = [Batch(tensors, (True,) + (False,) * (len(tensors) - 1)) for tensors in batches]
    return ScoreError(Outputs(), parts, Spool(None, torch.device("cpu")))


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def test_channels_between_0_and_1_are_scores() -> None:
    boxes, found = 100 * drawn(4, 3, 20), drawn(4, 2, 20)
    mask = scores(torch.cat([boxes, found], 1), 4).expand(1, 5, 20)
    assert not mask[:, :3].any() and mask[:, 3:].all()
    along_the_end = scores(torch.cat([boxes, found], 1).transpose(1, 2), 4).expand(1, 20, 5)
    assert torch.equal(along_the_end, mask.transpose(1, 2))


@pytest.mark.parametrize(
    "y", [torch.tensor(0.5), drawn(4), drawn(4, 3), drawn(4, 3, 5, 5) + 0.5, torch.full((4, 3, 2), torch.nan)]
)
def test_what_no_scores_are(y: Tensor) -> None:
    assert not scores(y, 4).any()


def test_scores_have_to_be_so_in_all_batches() -> None:
    assert score_error((drawn(4, 3, 8),), (drawn(4, 3, 8),))
    assert not score_error((drawn(4, 3, 8),), (2 * drawn(4, 3, 8),))
    assert not score_error((drawn(4, 3, 8),), (drawn(4, 3, 9),)), "maps of different sizes are not told apart"


def test_what_does_not_belong_to_the_images_is_no_score() -> None:
    """Such as the places of anchors, which are the same for all images, and rows of all images one after another."""
    maps, anchors, rows = drawn(4, 3, 8), drawn(1, 3, 8), drawn(12, 1, 8)
    error = score_error((maps, anchors, rows, torch.tensor(0.5)), (maps[:2], anchors, rows[:6], torch.tensor(0.5)))
    assert torch.equal(error.by_image(Outputs(0.5)), score_error((maps,), (maps[:2],)).by_image(Outputs(0.5)))


def test_batches_without_some_of_the_outputs_are_left_out() -> None:
    maps, empty = drawn(4, 3, 8), torch.zeros(4, 3, 0)
    error = score_error((maps, maps), (maps, empty), (empty, empty), (maps, maps))
    assert error and len(error.by_image(Outputs(0.5))) == 8


def test_the_equation() -> None:
    a, b = drawn(5, 3, 8), drawn(3, 3, 8, seed=1)
    boxes, other = 9 + drawn(5, 2), 9 + drawn(3, 2)
    found = score_error((a, boxes), (b, other)).by_image(Outputs(0.5, 0.1))
    expected = []
    for image in torch.cat([a, b]).double():
        total = weights = 0.0
        for target in image.flatten().tolist():
            score = target * 0.5 + 0.1
            weight = max(score, target) ** 2
            total, weights = total + weight * abs(score - target), weights + weight
        expected.append(total / weights)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-5, atol=1e-7)


def test_one_high_score_outweighs_many_low_ones() -> None:
    y = torch.full((2, 1, 1000), 0.001)
    y[:, :, 7] = 0.9
    error = score_error((y,))
    assert error.by_image(Outputs(0.5)).min() > 0.44, "half of the high one"
    assert error.by_image(Outputs(1, 0.001)).max() < 0.002


def test_no_scores_at_all_give_no_error() -> None:
    assert torch.equal(score_error((torch.zeros(3, 2, 4),)).by_image(Outputs()), torch.zeros(3, dtype=torch.float64))


@pytest.mark.parametrize(
    ("errors", "than", "worse"),
    [
        ([0.3, 0.3, 0.4], [0.1, 0.2, 0.1], True),
        ([0.1, 0.2, 0.1], [0.3, 0.3, 0.4], False),
        ([0.9, 0.1, 0.1, 0.1], [0.0, 0.15, 0.15, 0.15], False),  # one image alone
        ([0.2, 0.2], [0.2, 0.2], False),
        ([torch.nan, 0.2], [0.2, 0.2], True),
        ([0.2, 0.2], [torch.inf, 0.2], False),
    ],
)
def test_larger_errors_are_worse(errors: list[float], than: list[float], worse: bool) -> None:
    assert ScoreError.worse(torch.tensor(errors), torch.tensor(than)) == worse
