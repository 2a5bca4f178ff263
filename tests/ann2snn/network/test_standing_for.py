"""Attributes and methods of the ANN, asked of what stands for it."""

from __future__ import annotations

import copy
import functools
import pickle

import pytest
import torch
from in_parts import convert, refuse_huge
from nets import IMAGES
from spikingjelly.activation_based import functional
from torch import Tensor, nn

import sj_parallel_conversion as sjpc
from sj_parallel_conversion.ann2snn.network.standing_for import StandingFor


class Base(nn.Module):
    """The user's base class, whose methods count as well."""

    family, nothing = "nets", None

    def scaled(self, x: Tensor) -> Tensor:
        return self(x) * 2


class Body(Base):
    """Like a module of a detector: its index and the indices of its inputs are read by the model."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act = nn.Conv2d(3, 8, 3), nn.ReLU()
        self.f, self.stride, self.table = -1, torch.tensor([8.0, 16.0]), {"a": [1, 2]}
        self._private = 3
        self.blocks, self.function = [self.conv, self.act], torch.relu
        self.unsaveable = lambda x: x

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.conv(x))

    def detect(self, x: Tensor) -> Tensor:
        return self._largest(self(x))

    def by_forward(self, x: Tensor) -> Tensor:
        return self.forward(x)

    def scaled(self, x: Tensor) -> Tensor:
        return super().scaled(x) + 1

    def _largest(self, y: Tensor) -> Tensor:
        return y.flatten(1).argmax(1) * self._private

    def rename(self, name: str) -> str:
        self.name = name
        return self.name

    def is_body(self) -> bool:
        return isinstance(self, Body)

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    @functools.cached_property
    def doubled(self) -> int:
        return self.f * 2

    @staticmethod
    def add(a: int, b: int) -> int:
        return a + b

    @classmethod
    def kind(cls) -> str:
        return cls.__name__


class Model(nn.Module):
    """Cannot be captured as a whole, and reads attributes of its parts."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = Body(), nn.Conv2d(8, 4, 1)
        self.names, self.config = {0: "cat"}, {"hidden": 8}

    def forward(self, x: Tensor) -> Tensor:
        refuse_huge(x)
        return self.head(self.body(x)) if self.body.f == -1 and self.body.add(1, 1) == 2 else x

    def detect(self, x: Tensor) -> Tensor:
        return self(x).flatten(1).argmax(1)


def body() -> Body:
    torch.manual_seed(0)
    return Body().eval()


def model() -> Model:
    torch.manual_seed(0)
    return Model().eval()


def whole(ann: nn.Module) -> sjpc.SpikingNetwork:
    return sjpc.ParallelConverter([IMAGES], time_steps=4, calibration="none", show_progress=False).convert(ann)


def part_of(ann: nn.Module) -> nn.Module:
    return convert(ann, ["body"], calibration="none").model.body


MAKERS = pytest.mark.parametrize("make", [lambda: whole(body()), lambda: part_of(model())], ids=["whole", "part"])


@MAKERS
@torch.no_grad()
def test_attributes_and_methods(make) -> None:
    made, ann = make(), body()
    for network in (made, copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        assert network.f == -1 and network.table == {"a": [1, 2]} and network.family == "nets"
        assert network.nothing is None and network.function is torch.relu
        assert torch.equal(network.stride, ann.stride)
        assert network.dtype == torch.float32 and network.doubled == -2
        assert network.add(1, 2) == 3 and network.kind() == "Body" and network.is_body()
        assert network.rename("neck") == network.name == "neck"
        with pytest.raises(AttributeError, match="no attribute 'absent'"):
            _ = network.absent
        with pytest.raises(AttributeError, match="no attribute '_private'"):
            _ = network._private


@MAKERS
def test_nothing_of_the_ann_is_kept_in_attributes(make) -> None:
    network = make()
    assert not hasattr(network, "blocks"), "a list of modules of the ANN"
    assert not hasattr(network, "conv") and not hasattr(network, "unsaveable")
    assert b"Conv2d" not in pickle.dumps(network.__dict__["_original"])


@MAKERS
@pytest.mark.parametrize("step_mode", ["s", "m"])
@torch.no_grad()
def test_methods_get_the_decoded_answer_of_the_spiking_network(make, step_mode: str) -> None:
    network, ann = make(), body()
    functional.set_step_mode(network, step_mode)
    snn = network if isinstance(network, sjpc.SpikingNetwork) else network.snn
    y = snn.predict(IMAGES)
    assert not torch.equal(y, ann(IMAGES))
    for _ in range(2):
        assert torch.equal(network.by_forward(IMAGES), y)
        assert torch.equal(network.scaled(IMAGES), y * 2 + 1)
        assert torch.equal(network.detect(IMAGES), y.flatten(1).argmax(1) * 3)
    assert snn.step == 0, "no window was begun"


@torch.no_grad()
def test_a_network_in_parts_passes_on_what_the_model_has() -> None:
    ann = model()
    snn = convert(ann, ["body"])
    for network in (snn, copy.deepcopy(snn), pickle.loads(pickle.dumps(snn))):
        assert network.names == {0: "cat"} and network.config == {"hidden": 8}
        assert torch.equal(network.detect(IMAGES), network(IMAGES).flatten(1).argmax(1))
        assert isinstance(network.body, StandingFor) and torch.equal(network.head.weight, ann.head.weight)
        with pytest.raises(AttributeError, match="no attribute 'absent'"):
            _ = network.absent
    assert not torch.equal(snn(IMAGES), ann(IMAGES))


class Named(Body):
    """Has attributes under names that a spiking network has as well."""

    def __init__(self) -> None:
        super().__init__()
        self.config, self.time_steps, self.mode, self.net = {"hidden": 8}, 99, "training", "resnet"

    def predict(self, x: Tensor) -> str:
        return "the ANN's"


@torch.no_grad()
def test_the_network_s_own_attributes_win() -> None:
    torch.manual_seed(0)
    snn = whole(Named().eval())
    assert isinstance(snn.config, sjpc.ConversionConfig) and snn.time_steps == 4
    assert isinstance(snn.predict(IMAGES), Tensor) and isinstance(snn.net, nn.Module)
    assert snn.mode == "training", "which no spiking network has"
    outer = Model()
    outer.body = Named()
    part = part_of(outer.eval())
    assert part.config == {"hidden": 8} and part.predict(IMAGES) == "the ANN's", "a part has no such attributes"


def test_attributes_are_those_of_the_copy() -> None:
    ann = body()
    snn = whole(ann)
    ann.table["a"].append(3)
    snn.stride.mul_(2)
    assert snn.table == {"a": [1, 2]} and ann.stride.tolist() == [8, 16]


def test_classes_that_cannot_be_saved_pass_on_attributes_alone() -> None:
    class Local(Body):
        pass

    snn = pickle.loads(pickle.dumps(whole(Local().eval())))
    assert snn.f == -1 and not hasattr(snn, "detect")


class Configured(nn.Module):
    """Has an attribute of the network's own name, as models of Hugging Face have, and asks its class for a method."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.config, self.calls = nn.Linear(4, 4), {"scale": 3}, 0

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.layer(x))

    def scaled(self, x: Tensor) -> Tensor:
        self.calls += 1
        return type(self)._scale(self, self(x))

    def _scale(self, y: Tensor) -> Tensor:
        return y * self.config["scale"]

    def rescale(self, scale: int) -> None:
        self.config = {"scale": scale}


@torch.no_grad()
def test_methods_of_the_ann_see_its_own_attributes() -> None:
    ann, x = Configured(), torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    snn = sjpc.ParallelConverter([x], show_progress=False).convert(ann)
    for network in (snn, copy.deepcopy(snn), pickle.loads(pickle.dumps(snn))):
        assert isinstance(network.config, sjpc.ConversionConfig), "from outside the network's own"
        y = network.predict(x)
        assert torch.equal(network.scaled(x), 3 * y) and network.calls == 1
        network.rescale(5)
        assert torch.equal(network.scaled(x), 5 * y) and network.calls == 2
        assert isinstance(network.config, sjpc.ConversionConfig) and network.config.time_steps == 8
    assert ann.config == {"scale": 3} and ann.calls == 0
