"""One preparation, many conversions: each is that of a fresh converter, to the bit."""

from __future__ import annotations

import copy

import pytest
import torch
from in_parts import PARTS, detector, same
from nets import IMAGES
from torch import Tensor, nn

import sj_parallel_conversion as sjpc

DATA = torch.randn(48, 3, 8, 8, generator=torch.Generator().manual_seed(1))


class Counting(nn.Module):
    """A small residual network that knows how often it ran."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.bn, self.b = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.Conv2d(6, 6, 3, padding=1)
        self.fc, self.settings = nn.Linear(6, 4), {"classes": ["a", "b", "c", "d"]}

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(self.a(x)).relu()
        return self.fc((self.b(x) + x).relu().mean((2, 3)))


class Loader:
    """Batches in an order that torch's generator draws, which counts how often it is read."""

    def __init__(self) -> None:
        self.readings = 0

    def __iter__(self):
        self.readings += 1
        order = torch.randperm(len(DATA))
        yield from DATA[order].split(16)


def converter(loader: object, **options: object) -> sjpc.ParallelConverter:
    return sjpc.ParallelConverter(loader, show_progress=False, **options)


SETTINGS = [
    {"mode": "spikepack", "time_steps": 4, "threshold": "99%"},
    {"calibration": "weights", "distillation_epochs": 1, "time_steps": 3},
    {"mode": "css", "calibration": "da_qcfs", "threshold": "max", "spiking_inputs": True},
    {"calibration": "none", "fold": False, "per_channel": False, "input_encoding": "spikes", "shortcut": "membrane"},
]  # fmt: skip


@pytest.fixture(scope="module")
def prepared() -> sjpc.PreparedANN:
    return converter(Loader()).prepare(Counting().eval())


@pytest.mark.parametrize("options", SETTINGS, ids=str)
@pytest.mark.filterwarnings("ignore:calibration=")
def test_each_conversion_is_that_of_a_fresh_converter(
    prepared: sjpc.PreparedANN, options: dict[str, object]
) -> None:
    fresh = converter(Loader(), **options).convert(Counting().eval())
    snn = prepared.convert(**options)
    theirs = fresh.state_dict()
    assert snn.config == fresh.config
    assert list(theirs) == list(snn.state_dict())
    for name, value in snn.state_dict().items():
        assert not isinstance(value, Tensor) or torch.equal(value, theirs[name]), name
    assert torch.equal(snn.predict(IMAGES), fresh.predict(IMAGES))
    assert [p.requires_grad for p in snn.parameters()] == [p.requires_grad for p in fresh.parameters()]


def test_the_ann_and_the_data_are_read_once() -> None:
    ann, loader, runs = Counting().eval(), Loader(), []
    prepared = converter(loader).prepare(ann)
    assert loader.readings == 1
    prepared.captured.plain.register_forward_hook(lambda *call: runs.append(1))
    for T in (2, 4):
        prepared.convert(time_steps=T)
    assert loader.readings == 1 and not runs


def test_it_is_a_snapshot() -> None:
    ann, data = Counting().eval(), DATA.clone()
    before = copy.deepcopy(ann)
    prepared = converter([data]).prepare(ann)
    expected = prepared.convert().predict(IMAGES)
    assert all(torch.equal(x, y) for x, y in zip(ann.state_dict().values(), before.state_dict().values(), strict=True))
    with torch.no_grad():
        for parameter in ann.parameters():
            parameter.mul_(2)
    ann.settings["classes"].clear()
    again = prepared.convert()
    assert torch.equal(again.predict(IMAGES), expected) and again.settings["classes"] == ["a", "b", "c", "d"]


def test_networks_share_nothing() -> None:
    prepared = converter([DATA]).prepare(Counting().eval())
    one, other = prepared.convert(), prepared.convert()
    with torch.no_grad():
        for parameter in one.parameters():
            parameter.zero_()
    one.settings["classes"].clear()
    assert torch.equal(other.predict(IMAGES), prepared.convert().predict(IMAGES))
    assert other.settings["classes"] and not torch.equal(one.predict(IMAGES), other.predict(IMAGES))


def test_options_that_are_left_out_are_those_of_the_preparation() -> None:
    prepared = converter([DATA], mode="css", time_steps=4, calibration="none", seed=3).prepare(Counting().eval())
    assert prepared.convert(time_steps=2).config == sjpc.ConversionConfig(
        mode="css", time_steps=2, calibration="none", seed=3, show_progress=False
    )


def test_values_that_do_not_fit_wait_in_files() -> None:
    prepared = converter([DATA], max_memory=0).prepare(Counting().eval())
    in_memory = converter([DATA]).prepare(Counting().eval())
    assert torch.equal(prepared.convert().predict(IMAGES), in_memory.convert().predict(IMAGES))


@pytest.mark.parametrize("option", ["free_sizes", "keep", "max_batches", "max_memory", "seed"])
def test_options_of_the_preparation_are_refused(prepared: sjpc.PreparedANN, option: str) -> None:
    with pytest.raises(sjpc.ConfigError, match=rf"{option} is an option of the preparation.*{option}=\.\.\."):
        prepared.convert(**{option: 1})


def test_errors_are_those_of_a_conversion(prepared: sjpc.PreparedANN) -> None:
    with pytest.raises(sjpc.ConfigError, match=r"unknown option 'step'\. The options are"):
        prepared.convert(step=3)
    with pytest.raises(sjpc.ConfigError, match=r"unknown option 'time_step'\. Near: time_steps\. The options are"):
        prepared.convert(time_step=3)
    with pytest.raises(sjpc.ConfigError, match=r"unknown option 'T'\. Near: time_steps\."):
        prepared.convert(T=3)
    with pytest.raises(sjpc.ConfigError, match="time_steps must be an integer >= 1"):
        prepared.convert(time_steps=0)
    with pytest.raises(sjpc.DataError, match="dataloader=None"):
        converter(None).prepare(Counting())
    with pytest.raises(sjpc.DataError, match=r"dataloader is a model \(Counting\)"):
        converter(Counting()).prepare(Counting())
    with pytest.raises(sjpc.ConfigError, match="keep: 'nowhere' matches no layer"):
        converter([DATA], keep=["nowhere"]).prepare(Counting())


class Branching(nn.Module):
    """What it does depends on values."""

    def __init__(self) -> None:
        super().__init__()
        self.body = Counting()

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) if x.sum() > 0 else self.body(-x)


@pytest.mark.parametrize("options", [SETTINGS[0], SETTINGS[2]], ids=str)
@pytest.mark.filterwarnings("ignore:only ")
def test_a_model_in_parts(options: dict[str, object]) -> None:
    model = detector()
    before, runs = copy.deepcopy(model.state_dict()), []
    prepared = converter([DATA], keep=["backbone.b.*"], max_memory=1).prepare(model, submodules=PARTS)
    model.register_forward_hook(lambda *call: runs.append(1))
    fresh = converter([DATA], keep=["backbone.b.*"], max_memory=1, **options).convert(model, submodules=PARTS)
    runs.clear()
    snn = prepared.convert(**options)
    assert not runs and list(snn.parts) == PARTS and same(snn(IMAGES), fresh(IMAGES))
    with torch.no_grad():
        for parameter in snn.parameters():
            parameter.zero_()
    assert same(prepared.convert(**options)(IMAGES), fresh(IMAGES)), "networks share nothing"
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [neuron.node.T for neuron in prepared.convert(mode="css", time_steps=2).neurons()] == [2, 2]
    with pytest.raises(sjpc.ConfigError, match=r"frame_tau=2.* would do nothing"):
        prepared.convert(frame_tau=2)
    with pytest.raises(sjpc.ConfigError, match="keep is an option of the preparation"):
        prepared.convert(keep=[])


def test_a_model_that_is_converted_in_parts_is_refused_by_name() -> None:
    with pytest.raises(sjpc.ConversionError, match=r"convert\(model, submodules=\['body'\]\)"):
        converter([DATA]).prepare(Branching().eval())
