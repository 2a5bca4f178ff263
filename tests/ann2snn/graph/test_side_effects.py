"""Hooks of the user's: what they change is part of the model, and what they keep is the user's."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable

import pytest
import torch
from nets import IMAGES, lively
from torch import Tensor, nn

import sj_parallel_conversion as sjpc

EXACT = {"mode": "css", "time_steps": 12, "threshold": "max", "calibration": "none", "show_progress": False}


def net() -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 4, 3), nn.ReLU()]
    return lively(nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(5)), IMAGES)


def convert(ann: nn.Module, **options: object) -> sjpc.SpikingNetwork:
    return sjpc.ParallelConverter([IMAGES], **EXACT | options).convert(ann)


@torch.no_grad()
def assert_near(snn: sjpc.SpikingNetwork, ann: nn.Module) -> None:
    expected = ann(IMAGES)
    torch.testing.assert_close(snn.predict(IMAGES), expected, rtol=0, atol=0.01 * float(expected.abs().max()))


PLACES = {"convolution": "0", "norm": "1", "ReLU": "2", "pool": "3", "second ReLU": "5", "last": "7", "model": ""}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    "change", [lambda m, args, y: 2 * y + 1, lambda m, args, y: y.mul_(2).add_(1)], ids=["new", "in place"]
)
def test_what_a_hook_changes_is_part_of_the_model(place: str, change: Callable) -> None:
    ann, plain = net(), net()
    ann.get_submodule(PLACES[place]).register_forward_hook(change)
    with torch.no_grad():
        assert not torch.allclose(ann(IMAGES), plain(IMAGES), atol=0.1)
    snn = convert(ann)
    assert_near(snn, ann)
    assert len(ann.get_submodule(PLACES[place])._forward_hooks) == 1
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in snn.modules()), "they are in the graph"


@pytest.mark.parametrize("place", PLACES)
def test_what_a_hook_makes_of_the_input_is_part_of_the_model(place: str) -> None:
    ann = net()
    module = ann.get_submodule(PLACES[place])
    module.register_forward_pre_hook(lambda m, args: (args[0] * 0.5 - 0.1,))
    module.register_forward_pre_hook(lambda m, args, kwargs: ((args[0] + 0.2,), kwargs), with_kwargs=True)
    assert_near(convert(ann), ann)


def test_hooks_that_set_weights() -> None:
    def centre(module: nn.Conv2d, args: object) -> None:
        module.weight = module.original - module.original.mean()

    ann = net()
    ann[4].register_parameter("original", nn.Parameter(ann[4].weight.detach().clone()))
    del ann[4]._parameters["weight"]
    centre(ann[4], ())
    ann[4].register_forward_pre_hook(centre)
    assert_near(convert(ann), ann)


class Recorder:
    """Keeps features in whatever a user may keep them in."""

    def __init__(self) -> None:
        self.listed: list[Tensor] = []
        self.named: dict[str, Tensor] = {}
        self.nested: dict[str, list[list[Tensor]]] = {"inner": [[]]}
        self.recent: deque[Tensor] = deque(maxlen=2)
        self.latest: object = None
        self.count = 0

    def hook(self, module: nn.Module, args: tuple, y: Tensor) -> None:
        self.listed.append(y)
        self.named[type(module).__name__] = y.detach()
        self.nested["inner"][0].append(y)
        self.recent.append(y)
        self.latest, self.count = y, self.count + 1

    def state(self) -> list[object]:
        return [list(self.listed), dict(self.named), self.latest, self.count]


def same(one: list[object], other: list[object]) -> bool:
    """The same objects, in the same places."""
    return [id(x) for x in one] == [id(x) for x in other]


@pytest.mark.parametrize("calls", [0, 1])
def test_what_a_method_keeps_is_as_it_was(calls: int) -> None:
    ann, recorder = net(), Recorder()
    ann[2].register_forward_hook(recorder.hook)
    for _ in range(calls):
        ann(IMAGES)
    before = recorder.state()
    snn = convert(ann)
    after = recorder.state()
    assert same(after[0], before[0]) and len(after[0]) == calls
    assert after[1].keys() == before[1].keys() and after[2] is before[2] and after[3] == calls
    assert [len(x) for x in recorder.nested["inner"]] == [calls] and len(recorder.recent) == calls
    snn.predict(IMAGES)
    assert recorder.count == calls, "nor does the spiking network run the user's hook"
    ann(IMAGES)
    assert recorder.count == calls + 1 and type(recorder.listed[-1]) is Tensor


FEATURES: list[Tensor] = []
RECORDER = Recorder()


def keeps_in_the_file(module: nn.Module, args: tuple, y: Tensor) -> None:
    FEATURES.append(y)
    RECORDER.hook(module, args, y)


@pytest.mark.parametrize("whole", [True, False], ids=["whole", "in parts"])
def test_what_functions_keep_is_as_it_was(whole: bool) -> None:
    ann = net()
    listed, named, seen = [], {}, set()
    ann[0].register_forward_hook(lambda m, args, y: listed.append(y))
    ann[1].register_forward_hook(functools.partial(lambda store, m, args, y: store.update(norm=y), named))
    ann[4].register_forward_pre_hook(lambda m, args: seen.add(args[0].shape[1:]))
    ann[5].register_forward_hook(keeps_in_the_file)
    RECORDER.__init__()
    ann(IMAGES)
    before = list(listed), dict(named), set(seen), list(FEATURES)
    model, submodules = (ann, None) if whole else (nn.Sequential(ann[:3], ann[3:]), ["0", "1"])
    try:
        sjpc.ParallelConverter([IMAGES], **EXACT).convert(model, submodules=submodules)
    finally:
        after = list(listed), dict(named), set(seen), list(FEATURES)
        FEATURES.clear()
    assert same(after[0], before[0]) and same(after[3], before[3]) and len(after[0]) == len(after[3]) == 1
    assert after[1].keys() == {"norm"} and after[1]["norm"] is before[1]["norm"] and after[2] == before[2]
    assert RECORDER.count == 1 and same(list(RECORDER.recent), before[3])


class Keeps(nn.Module):
    """Its forward keeps features of the last call."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.features, self.last = net(), [], {}

    def forward(self, x: Tensor) -> Tensor:
        self.features.append(self.net[:3](x))
        self.last["features"] = (self.features[-1], 1)
        return self.net(x)


def test_a_model_that_holds_results_of_a_call_converts() -> None:
    ann = Keeps()
    ann(IMAGES)
    kept = ann.features[0]
    assert kept.requires_grad and not kept.is_leaf
    assert_near(convert(ann), ann)
    assert ann.features[0] is kept and ann.last["features"][1] == 1


def test_hooks_for_training_stay_with_the_ann() -> None:
    ann, gradients = net(), []
    ann[0].register_full_backward_hook(lambda m, inputs, outputs: gradients.append(outputs[0]))
    snn = convert(ann, calibration="least_squares")
    assert_near(snn, ann)
    assert gradients == [] and len(ann[0]._backward_hooks) == 1
    ann(IMAGES).sum().backward()
    assert len(gradients) == 1
    snn.requires_grad_().predict(IMAGES).sum().backward()
    assert len(gradients) == 1
