"""Bytes pass where all that reads them takes bytes, and the network answers as with floats between its layers."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest
import torch
from test_int8_layers import slow
from torch import Tensor, fx, nn
from torch.nn import functional as F

import sj_parallel_conversion as sjpc
from sj_parallel_conversion.ann2snn.cpu import byte_flow
from sj_parallel_conversion.ann2snn.cpu.int8_layers import Int8Conv2d, Int8Layer
from sj_parallel_conversion.neuron import SpikingActivation

pytestmark = pytest.mark.skipif(
    not (torch.backends.mkldnn.is_available() and hasattr(torch.ops.onednn, "qconv2d_pointwise")), reason="no oneDNN"
)
IMAGES = torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(1))


class Residual(nn.Module):
    """Pooling, an identity shortcut, one with a convolution, a concatenation, and a bottleneck without a neuron."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.pool = nn.Conv2d(3, 8, 3, padding=1), nn.MaxPool2d(3, 2, 1)
        self.one, self.two = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.three, self.four = nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.down = nn.Conv2d(8, 16, 1, stride=2)
        self.left, self.right = nn.Conv2d(16, 8, 1), nn.Conv2d(16, 8, 3, padding=1, groups=4)
        self.project, self.expand = nn.Conv2d(16, 8, 1), nn.Conv2d(8, 16, 1)
        self.head, self.drop = nn.Linear(16, 5), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        """:param x: ``[N, 3, 16, 16]``. :return: ``[N, 5]``"""
        x = self.pool(self.stem(x).relu())
        x = (self.two(self.one(x).relu()) + x).relu()
        x = (self.four(self.three(x).relu()) + self.down(x)).relu()
        x = torch.cat([self.left(x).relu(), self.drop(self.right(x).relu())], 1)
        x = self.expand(self.project(x)).relu()
        return self.head(x.mean((2, 3)))


def converted(ann: nn.Module, x: Tensor = IMAGES, **options: object) -> sjpc.SpikingNetwork:
    options = {"time_steps": 8, "calibration": "none", "show_progress": False} | options
    return sjpc.ParallelConverter([x], **options).convert(ann.eval())


def residual(**options: object) -> sjpc.SpikingNetwork:
    torch.manual_seed(0)
    return converted(Residual(), **options)


class Types(fx.Interpreter):
    """Notes the dtype of what each node gives."""

    def __init__(self, snn: sjpc.SpikingNetwork) -> None:
        super().__init__(snn.net)
        self.found: dict[str, torch.dtype] = {}

    def run_node(self, node: fx.Node) -> object:
        """As in the base class."""
        value = super().run_node(node)
        if isinstance(value, Tensor):
            self.found[str(node.target) if node.op == "call_module" else node.name] = value.dtype
        return value


@torch.no_grad()
def types(snn: sjpc.SpikingNetwork, x: Tensor = IMAGES) -> dict[str, torch.dtype]:
    """The dtype of each value, by the name of a module or of a node."""
    observer = Types(snn)
    observer.run(x, enable_io_processing=False)
    return observer.found


class InFloat64(nn.Module):
    """A layer that computes integers in float64."""

    def __init__(self, layer: Int8Layer) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """:param x: as of the layer. :return: currents"""
        return slow(self.layer, x)


def in_float64(snn: sjpc.SpikingNetwork) -> sjpc.SpikingNetwork:
    """The slow form of an int8 network: floats between layers, and sums of integers in float64."""
    snn = copy.deepcopy(snn)
    for name, module in list(snn.net.named_modules()):
        if isinstance(module, Int8Conv2d):
            parent, _, last = name.rpartition(".")
            setattr(snn.net.get_submodule(parent), last, InFloat64(module))
        if isinstance(module, SpikingActivation):
            module.byte_readers = module.levels_from = ()
        if not isinstance(module, Int8Layer) and not list(module.children()):
            module.double()
    return snn


@pytest.mark.parametrize("data", [None, [IMAGES]])
@pytest.mark.parametrize(
    "options",
    [{}, {"time_steps": 3}, {"time_steps": 127}, {"time_steps": 255}, {"mode": "spikepack"},
     {"mode": "css", "time_steps": 4}, {"shortcut": "membrane"}],
)  # fmt: skip
@torch.no_grad()
def test_as_with_integers_in_float64(options: dict[str, object], data: list[Tensor] | None) -> None:
    small = sjpc.to_int8(residual(**options), data)
    expected = in_float64(small).net(IMAGES.double())[0]
    for size in (1, 4, 6):
        torch.testing.assert_close(small.predict(IMAGES[:size]).double(), expected[:size], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_which_values_are_bytes() -> None:
    found = types(sjpc.to_int8(residual()))
    assert {name for name, dtype in found.items() if dtype == torch.uint8} >= {"pool", "cat", "drop"}
    neurons = [module for module in sjpc.to_int8(residual()).net.modules() if isinstance(module, SpikingActivation)]
    assert [bool(neuron.byte_readers) for neuron in neurons] == [True] * 7 + [False], "the last one is averaged"
    # layers in front of a neuron emit its levels, those in front of an addition currents
    assert {found[name] for name in ("one", "three", "left", "right")} == {torch.uint8}
    assert {found[name] for name in ("stem", "two", "four", "down", "project", "expand")} == {torch.float32}


@torch.no_grad()
def test_with_data_currents_pass_as_bytes_as_well() -> None:
    small = sjpc.to_int8(residual(), [IMAGES])
    found = types(small)
    assert found["stem"] == found["project"] == torch.uint8, "the levels of a neuron, and what 'expand' reads"
    assert found["expand"] == torch.float32, "its neuron is averaged"
    project, expand = (small.net.get_submodule(name) for name in ("project", "expand"))
    assert expand.flow is project.flow and expand.flow.sources[expand] is project
    fast = small.predict(IMAGES)
    kept: list[Tensor] = []
    handle = small.net.get_submodule("expand").register_forward_pre_hook(lambda module, args: kept.append(args[0]))
    torch.testing.assert_close(small.predict(IMAGES), fast, msg="who listens sees floats, and the answers are the same")
    handle.remove()
    assert kept[0].dtype == torch.float32 and torch.equal(small.predict(IMAGES), fast)
    for execution in ("spikes", "stepwise"):
        small.execution = execution
        assert types_of_layers(small) == {torch.float32}, "bytes have no mean over time"
    small.execution = "spikes"
    torch.testing.assert_close(small.predict(IMAGES), fast, rtol=1e-4, atol=1e-4)


def types_of_layers(snn: sjpc.SpikingNetwork) -> set[torch.dtype]:
    found = types(snn)
    return {found[name] for name, module in snn.net.named_modules() if isinstance(module, Int8Layer)}


@pytest.mark.parametrize("data", [None, [IMAGES]])
@torch.no_grad()
def test_copied_pickled_saved(data: list[Tensor] | None, tmp_path: Path) -> None:
    small = sjpc.to_int8(residual(), data)
    fast, expected = small.predict(IMAGES), types(small)
    sjpc.save(small, tmp_path / "int8.sjpc")
    for other in (copy.deepcopy(small), pickle.loads(pickle.dumps(small)), sjpc.load(tmp_path / "int8.sjpc")):
        assert torch.equal(other.predict(IMAGES), fast) and types(other) == expected
        kept = {id(module) for module in other.net.modules()}
        for layer in other.net.modules():
            links = [getattr(layer, name, ()) for name in ("byte_readers", "levels_from")]
            assert {id(module) for modules in links for module in modules} <= kept, "it knows modules of its own"
        (flow,) = {layer.flow for layer in other.net.modules() if isinstance(layer, Int8Layer)}
        known = {flow.site, *flow.neurons, *flow.neurons.values(), *flow.sources, *flow.sources.values()}
        assert {id(module) for module in known} <= kept


class Chain(nn.Sequential):
    """Layers and neurons in turns."""

    def __init__(self, layers: int) -> None:
        super().__init__(*(module for _ in range(layers) for module in (nn.Conv2d(3, 3, 1), nn.ReLU())))


@torch.no_grad()
def test_deep_networks_are_copied_and_pickled() -> None:
    """What layers know of those behind them must not make Python go from each to the next."""
    torch.manual_seed(0)
    small = sjpc.to_int8(converted(Chain(250), IMAGES[:1, :, :2, :2]))
    expected = small.predict(IMAGES)
    for other in (copy.deepcopy(small), pickle.loads(pickle.dumps(small))):
        assert torch.equal(other.predict(IMAGES), expected)


@torch.no_grad()
def test_a_hook_on_a_neuron_sees_floats() -> None:
    small = sjpc.to_int8(residual())
    fast, seen = small.predict(IMAGES), []
    names = [name for name, module in small.net.named_modules() if isinstance(module, SpikingActivation)]
    handles = [
        small.net.get_submodule(name).register_forward_hook(lambda module, args, y: seen.append(args[0].dtype))
        for name in names
    ]
    assert torch.equal(small.predict(IMAGES), fast) and set(seen) == {torch.float32}
    for handle in handles:
        handle.remove()


class Sums(nn.Module):
    """Adds the levels of two neurons, which may have no room in a byte."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)
        self.four, self.five = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        """:param x: ``[N, 3, H, W]``. :return: ``[N, 4, H - 4, W - 4]``"""
        left, right = self.one(x).relu(), self.two(x).relu()
        return self.four(self.three(left + right).relu()) + self.five(right)[:, :, 1:-1, 1:-1]


@torch.no_grad()
def test_sums_of_levels_have_room() -> None:
    torch.manual_seed(0)
    snn = converted(Sums(), time_steps=200, threshold="max")
    small = sjpc.to_int8(snn)
    expected = snn.predict(IMAGES)
    assert (small.predict(IMAGES) - expected).norm() < 0.02 * expected.norm()


class Shuffled(nn.Module):
    """Parts of the channels, each through its own layers, and all of them shuffled."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.left, self.right = nn.Conv2d(3, 8, 3), nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1)
        self.last = nn.Conv2d(8, 8, 3, groups=4)

    def forward(self, x: Tensor) -> Tensor:
        """:param x: ``[N, 3, H, W]``. :return: ``[N, 8, H - 4, W - 4]``"""
        x = self.stem(x).relu()
        left, right = x.chunk(2, 1)
        x = torch.cat([self.left(left).relu(), self.right(right).relu()], 1)
        size = x.shape
        x = x.view(size[0], 2, 4, *size[2:]).transpose(1, 2).reshape(size)
        return self.last(F.pad(x, [1, 0, 0, 0])[:, :, :, 1:])


@torch.no_grad()
def test_bytes_are_moved() -> None:
    torch.manual_seed(0)
    small = sjpc.to_int8(converted(Shuffled()))
    found = types(small)
    floats = {name for name, dtype in found.items() if dtype == torch.float32}
    assert floats == {"x", "stem", "last"}
    torch.testing.assert_close(small.predict(IMAGES).double(), in_float64(small).net(IMAGES.double())[0])


@torch.no_grad()
def test_without_a_kernel_for_bytes_pooling_reads_floats(monkeypatch: pytest.MonkeyPatch) -> None:
    fast = sjpc.to_int8(residual()).predict(IMAGES)
    monkeypatch.setattr(byte_flow, "pools_bytes", lambda: False)
    small = sjpc.to_int8(residual())
    assert types(small)["pool"] == torch.float32 and torch.equal(small.predict(IMAGES), fast)


class Bottlenecks(nn.Module):
    """Inverted residuals, as in MobileNetV2: currents are added, and two layers read one of them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one, self.two = nn.Conv2d(3, 8, 3, stride=2), nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)
        self.depth, self.three = nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Conv2d(8, 4, 1)
        self.left, self.right = nn.Conv2d(4, 6, 1), nn.Conv2d(4, 6, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """:param x: ``[N, 3, H, W]``. :return: ``[N, 12, H / 2, W / 2]``"""
        x = self.one(F.relu6(self.stem(F.pad(x, [0, 1, 0, 1]))))
        x = self.three(F.relu6(self.depth(F.relu6(self.two(x))))) + x
        return torch.cat([self.left(x), self.right(x)], 1)


@torch.no_grad()
def test_currents_that_are_added_pass_as_floats() -> None:
    torch.manual_seed(0)
    snn = converted(Bottlenecks(), time_steps=32)
    small = sjpc.to_int8(snn, [IMAGES])
    found = types(small)
    assert {found[name] for name in ("stem", "two", "depth")} == {torch.uint8}
    assert {found[name] for name in ("one", "three", "left", "right")} == {torch.float32}
    assert sum(isinstance(module, Int8Conv2d) for module in small.net.modules()) == 7
    torch.testing.assert_close(small.predict(IMAGES).double(), in_float64(small).net(IMAGES.double())[0])
    expected = snn.predict(IMAGES)
    assert (small.predict(IMAGES) - expected).norm() < 0.05 * expected.norm()
