"""The clauses of docs/explanation/upstream.md, by their numbers, in the style of SpikingJelly's own tests."""

from __future__ import annotations

import copy
import io
import re
from pathlib import Path

import pytest
import torch
from spikingjelly.activation_based import ann2snn, base, functional, monitor
from torch import nn

import sj_parallel_conversion as sjpc
from sj_parallel_conversion import compat

PAGE = Path(__file__).parents[2] / "docs" / "explanation" / "upstream.md"
T, N = 4, 3
MODES = ("parallel", "spikepack", "css")


class CNN(nn.Module):
    """A small network with a functional ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1)
        self.fc = nn.Linear(4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[N, 2, H, W]`` -> ``[N, 5]``"""
        return self.fc(torch.relu(self.conv(x)).mean((2, 3)))


def make_ann() -> CNN:
    torch.manual_seed(0)
    return CNN().eval()


def make_loader() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(8, 2, 6, 6, generator=generator) for _ in range(4)]


def convert(mode: str = "parallel") -> sjpc.SpikingNetwork:
    recipe = sjpc.ParallelConversionRecipe(make_loader(), mode=mode, time_steps=T, show_progress=False)
    if hasattr(ann2snn, "ModuleConverter"):
        return ann2snn.ModuleConverter(recipe).convert(make_ann())
    recipe.validate(None)
    return recipe.convert_module(None, make_ann())


@pytest.fixture(scope="module", params=MODES)
def converted(request: pytest.FixtureRequest) -> sjpc.SpikingNetwork:
    return convert(request.param)


@pytest.fixture
def snn(converted: sjpc.SpikingNetwork) -> sjpc.SpikingNetwork:
    return copy.deepcopy(converted)


@pytest.fixture
def x() -> torch.Tensor:
    return make_loader()[0][:N]


def test_recipe_is_a_policy_without_an_entry_point() -> None:  # 1
    recipe = sjpc.ParallelConversionRecipe(make_loader(), time_steps=T)
    assert isinstance(recipe, compat.ModuleConversionRecipe)
    assert not any(hasattr(recipe, name) for name in ("convert", "run", "__call__"))


def test_conversion_leaves_the_ann(x: torch.Tensor) -> None:  # 2
    ann = make_ann().train()
    before = copy.deepcopy(ann.state_dict())
    recipe = sjpc.ParallelConversionRecipe(make_loader(), time_steps=T, show_progress=False)
    recipe.validate(None)
    recipe.convert_module(None, ann)
    assert ann.training and all(torch.equal(value, before[name]) for name, value in ann.state_dict().items())


def test_bad_options_and_bad_data_are_named() -> None:  # 3
    with pytest.raises(sjpc.ConfigError, match="time_steps"):
        sjpc.ParallelConversionRecipe(make_loader(), time_steps=0)
    with pytest.raises(sjpc.DataError, match="dataloader"):
        sjpc.ParallelConversionRecipe(None).validate(None)


def test_multi_step_shapes(snn: sjpc.SpikingNetwork, x: torch.Tensor) -> None:  # 5, 6, 8
    functional.set_step_mode(snn, "m")
    y_seq = snn(x.expand(T, *x.shape))
    assert snn.time_steps == T and y_seq.shape == (T, N, 5)
    assert torch.equal(snn.decode(y_seq), y_seq.mean(0))
    with pytest.raises(sjpc.DataError):
        snn(x.expand(T + 1, *x.shape))


def test_samples_do_not_mix_with_time(snn: sjpc.SpikingNetwork, x: torch.Tensor) -> None:  # 7
    torch.testing.assert_close(snn.predict(x)[1:2], snn.predict(x[1:2]))


def test_step_modes_agree(snn: sjpc.SpikingNetwork, x: torch.Tensor) -> None:  # 9, 10, 13
    assert snn.step_mode == "s"
    functional.reset_net(snn)
    y = sum(snn(x) for _ in range(T)) / T
    again = sum(snn(x) for _ in range(T)) / T
    functional.set_step_mode(snn, "m")
    torch.testing.assert_close(y, snn(x.expand(T, *x.shape)).mean(0))
    torch.testing.assert_close(y, again)


def test_another_input_within_a_window_is_refused(snn: sjpc.SpikingNetwork, x: torch.Tensor) -> None:  # 10, 13
    snn(x)
    with pytest.raises(sjpc.DataError):
        snn(x + 1)
    functional.reset_net(snn)
    snn(x + 1)


def test_the_answer_is_that_of_the_mean_input(snn: sjpc.SpikingNetwork, x: torch.Tensor) -> None:  # 11
    functional.set_step_mode(snn, "m")
    x_seq = x * torch.tensor([0.0, 2.0, 0.5, 1.5]).view(T, 1, 1, 1, 1)
    torch.testing.assert_close(snn(x_seq).mean(0), snn(x.expand(T, *x.shape)).mean(0))


def test_step_modes_pass_over_the_nodes(snn: sjpc.SpikingNetwork) -> None:  # 12
    nodes = [m for m in snn.modules() if isinstance(m, sjpc.SpikingNode)]
    for mode in ("s", "m", "s"):
        functional.set_step_mode(snn, mode)
        assert snn.step_mode == mode
        assert nodes and all(isinstance(n, base.MultiStepModule) and not hasattr(n, "step_mode") for n in nodes)


def test_reset_changes_nothing_in_multi_step_mode(snn: sjpc.SpikingNetwork, x: torch.Tensor) -> None:  # 14
    functional.set_step_mode(snn, "m")
    first = snn(x.expand(T, *x.shape))
    functional.reset_net(snn)
    assert torch.equal(first, snn(x.expand(T, *x.shape)))


def test_a_new_step_mode_begins_a_new_window(snn: sjpc.SpikingNetwork, x: torch.Tensor) -> None:  # 15
    snn(x)
    functional.set_step_mode(snn, "m")
    functional.set_step_mode(snn, "s")
    snn(x + 1)


def test_copies_and_checkpoints(snn: sjpc.SpikingNetwork, x: torch.Tensor) -> None:  # 16
    file = io.BytesIO()
    torch.save(snn, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    assert torch.equal(loaded.predict(x), snn.predict(x))
    second = convert(snn.config.mode)
    second.load_state_dict(snn.state_dict())
    assert torch.equal(second.predict(x), snn.predict(x))


def test_monitors_see_spikes(snn: sjpc.SpikingNetwork, x: torch.Tensor) -> None:  # 17
    record = monitor.OutputMonitor(snn, sjpc.SpikingNode)
    snn.predict(x)
    (train,) = record.records
    assert train.shape[:2] == (T, N) and set(train.unique().tolist()) <= {-1.0, 0.0, 1.0}
    record.remove_hooks()


def test_every_clause_is_held() -> None:
    clauses = set(re.findall(r"^(\d+)\. ", PAGE.read_text(), re.M))
    lines = re.findall(r"-> None:  # ([\d, ]+)$", Path(__file__).read_text(), re.M)
    held = {number for line in lines for number in line.split(", ")}
    assert len(clauses) == 17 and clauses - held == {"4"}  # that one is held by all tests of captures
