"""Which images are held out, and what they say."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, fx, nn

from sj_parallel_conversion.ann2snn.calibration.judge import Judge
from sj_parallel_conversion.ann2snn.config import ConversionConfig
from sj_parallel_conversion.ann2snn.data.batches import CalibrationData

CPU = torch.device("cpu")


class Model(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor]:
        return (2 * x,)


def judge_of(batches: list, seed: int = 0, model: nn.Module | None = None, whole: bool = False) -> Judge | None:
    model = Model() if model is None else model
    data = CalibrationData(batches, model, CPU, torch.float32, False)
    data.fixed_batch = whole
    return Judge.of(fx.symbolic_trace(model), data, ConversionConfig(seed=seed))


def images(n: int) -> Tensor:
    return torch.arange(float(n)).unsqueeze(1) + torch.tensor([0.0, 0.5])


def numbers(batches: list) -> list[int]:
    return [int(x) for batch in batches for x in batch.tensors[0][:, 0]]


@pytest.mark.parametrize(("n", "held"), [(31, None), (32, 4), (40, 5), (511, 63), (2000, 64)])
def test_one_image_in_eight_up_to_a_limit(n: int, held: int | None) -> None:
    judge = judge_of(list(images(n).split(16)))
    if held is None:
        assert judge is None
        return
    kept, judging, few = (numbers(x) for x in (judge.fitted.batches(""), judge.error.parts, judge.few.batches("")))
    assert len(judging) == held and sorted(kept + judging) == list(range(n))
    assert kept == sorted(kept), "the order of the data"
    assert set(few) <= set(kept) and len(few) == min(32, len(kept))


def test_they_are_the_same_in_any_order_and_others_with_another_seed() -> None:
    x = images(160)
    first, shuffled = (numbers(judge_of(list(y.split(32))).error.parts) for y in (x, x[torch.randperm(160)]))
    assert first == shuffled
    assert numbers(judge_of(list(x.split(32)), seed=1).error.parts) != first
    assert len({i % 8 for i in first}) > 3, "no period of the data decides"


def test_copies_are_on_the_same_side() -> None:
    judge = judge_of(list(images(40).repeat(3, 1).split(24)))
    kept, judging = numbers(judge.fitted.batches("")), numbers(judge.error.parts)
    assert len(judging) == 5 and not set(kept) & set(judging)
    assert len(kept) == 3 * 35


def test_batches_that_must_stay_whole_do() -> None:
    judge = judge_of(list(images(128).split(4)), whole=True)
    assert [len(part.tensors[0]) for part in judge.error.parts] == [4] * 4
    assert all(len(batch.tensors[0]) == 4 for batch in judge.fitted.batches(""))
    assert len(numbers(judge.fitted.batches(""))) == 112


def test_images_of_several_sizes() -> None:
    batches = [torch.randn(8, 1, size, size) for size in (4, 5, 4, 6, 5)]
    judge = judge_of(batches)
    assert len(judge.errors(Model())) == 5
    assert not judge.errors(Model()).any()


def test_outputs_that_cannot_be_compared_judge_nothing() -> None:
    class Classes(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor]:
            return (x.argmax(1),)

    assert judge_of([images(64)], model=Classes()) is None


def test_errors_are_relative_and_by_image() -> None:
    judge = judge_of([images(64)])

    class Off(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor]:
            return (2 * x + (x[:, :1] == x[:, :1].max()),)

    errors, targets = judge.errors(Off()), torch.cat([t[0] for t in judge.error.targets])
    assert (errors != 0).sum() == 1
    torch.testing.assert_close(float(errors.max()), float(1 / targets.var(correction=0)))


def test_a_mean_takes_no_digits_from_the_deviation() -> None:
    x = torch.randn(1000, 4) + 1e4
    error = judge_of([x]).error
    targets = torch.cat([t[0] for t in error.targets])
    torch.testing.assert_close(error.deviations[0], targets.double().std(correction=0).float())


def test_several_outputs_count_alike() -> None:
    class Outputs(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            return x, 100 * x.unsqueeze(2), 0 * x + 7

    judge = judge_of([images(64)], model=Outputs())
    assert judge.error.deviations[2] == 7
    torch.testing.assert_close(judge.error.deviations[1], 100 * judge.error.deviations[0])
    network = Outputs()
    network.forward = lambda x: (x, 100 * x.unsqueeze(2) + 100, 0 * x + 7)
    expected = float(judge.error.deviations[0]) ** -2 / 3
    torch.testing.assert_close(judge.errors(network), torch.full((8,), expected, dtype=torch.float64))


@pytest.mark.parametrize(("count", "more", "worse"), [
    (64, 0.3, True), (64, 0.0, False), (64, -0.3, False), (4, 0.3, False), (4, 10.0, True), (64, torch.nan, True),
])  # fmt: skip
def test_worse_is_what_chance_does_not_explain(count: int, more: float, worse: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    than = torch.rand(count, generator=generator, dtype=torch.float64) + 0.5
    noise = 0.6 * torch.randn(count, generator=generator, dtype=torch.float64)
    assert Judge.worse(than + more + noise - noise.mean(), than) is worse


def test_a_multiple_of_the_error_is_worse_even_in_one_image() -> None:
    than = torch.ones(4, dtype=torch.float64)
    assert Judge.worse(than + torch.tensor([0, 0, 0, 14.0]), than)
    assert not Judge.worse(than + torch.tensor([0, 0, 0, 6.0]), than)


def test_rounding_is_nothing_worse() -> None:
    than = torch.zeros(64, dtype=torch.float64)
    assert not Judge.worse(than + 1e-9, than)
    assert not Judge.worse(than * torch.nan, than * torch.nan)
