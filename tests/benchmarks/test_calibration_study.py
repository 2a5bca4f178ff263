"""The calibration study's own parts: the rivals get the same network, and every line of the table says something."""

from __future__ import annotations

import argparse

import pytest
import torch
from calibration_study import draw, over_draws, setting, study, table, views
from comparison import Comparison, Row, Score
from helpers.models import cifar_resnet, digits_cnn
from spikingjelly_recipes import Passes, with_modules
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class FunctionalReLU(nn.Sequential):
    """A network that SpikingJelly's recipes refuse, or leave without neurons."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).relu()


def loader() -> DataLoader:
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.randn(12, 1, 8, 8, generator=generator), torch.arange(12) % 10
    return DataLoader(TensorDataset(images, labels), 6)


@torch.no_grad()
def test_the_network_of_modules_is_the_same_network() -> None:
    ann, x = cifar_resnet("resnet20").eval(), torch.randn(2, 3, 32, 32)
    assert torch.equal(with_modules(ann)(x), ann(x))


def test_passes_begin_anew() -> None:
    data = Passes([1, 2], 2)
    assert list(data) == list(data) == [1, 2, 1, 2]


def test_a_study_of_any_network() -> None:
    ann, data = digits_cnn().eval(), loader()
    settings = [("max", "none"), ("max", "none", "membrane")]
    rows = study(ann, data, data, data, settings=settings, time_steps=[1, 3], rival=ann)
    methods = ["ANN", '"max", "none"', '"max", "none", "membrane"', "SpikingJelly, rate coding"]
    assert [row.method for row in rows[:4]] == methods
    assert all(list(row.scores) == [1, 3] and row.cost > 0 and not row.failure for row in rows)


def test_a_recipe_that_cannot_convert_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    ann, data = FunctionalReLU(nn.Flatten(), nn.Linear(64, 10)).eval(), loader()
    _, rate_coding, *_ = study(ann, data, data, data, settings=[], time_steps=[2], rival=ann)
    assert rate_coding.failure and not rate_coding.scores
    assert rate_coding.failure in capsys.readouterr().out


def test_errors_that_are_not_a_recipe_s_stand_out() -> None:
    def broken(ann: nn.Module) -> nn.Module:
        raise ZeroDivisionError

    ann, data = digits_cnn().eval(), loader()
    with pytest.raises(ZeroDivisionError), torch.no_grad():
        Comparison(ann, data, data, data).recipe("broken", {"max": broken}, ann, [2], memory=False)


def test_table() -> None:
    lines = table([Row("recipe", failure="a | b")], [2, 4]).splitlines()
    assert lines[0].count("|") == lines[2].count("|") - 1 and "a \\| b" in lines[2]


def test_means_over_draws() -> None:
    studies = [[Row("weights", {2: Score(accuracy, agreement)}, 4.0)] for accuracy, agreement in ((80, 70), (84, 72))]
    (row,) = over_draws(studies)
    score = row.scores[2]
    assert (score.accuracy, score.agreement, row.cost) == (82, 71, 4.0)
    assert score.deviation == pytest.approx(8**0.5)
    assert "82.00 +- 2.83 (71.00)" in table([row], [2])


def test_draws_differ_and_can_be_repeated() -> None:
    images = [torch.arange(100), torch.arange(100)]
    drawn = [[x.tolist() for x, _ in draw(images, 10, seed, 4)] for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert [len(batch) for batch in drawn[0]] == [4, 4, 2] and len({i for batch in drawn[0] for i in batch}) == 10


def test_views() -> None:
    x = torch.arange(2 * 3 * 5 * 7.0).view(2, 3, 5, 7)
    seen, labels = views([x, torch.tensor([4, 6])])
    assert labels.tolist() == [4, 6] * 4 and torch.equal(seen[:2], x)
    assert torch.equal(seen[2:4, ..., 0], x[..., -1])
    assert torch.equal(seen[4:6, :, 2:], x[:, :, :-2]) and torch.equal(seen[6:, ..., :-2], x[..., 2:])


def test_settings_of_the_command_line() -> None:
    assert setting("mse:weights") == ["mse", "weights"] and setting("max:none:membrane")[2] == "membrane"
    for text in ("mse", "mse:", ":weights", "mse:weights:membrane:more", ""):
        with pytest.raises(argparse.ArgumentTypeError, match="THRESHOLD:CALIBRATION"):
            setting(text)
