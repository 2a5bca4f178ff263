"""What is saved is loaded, to the bit, in every execution, with all that was set on it."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from in_parts import IMAGES, PARTS, convert, detector
from in_parts import same as same_boxes
from nets import NETS, TOKENS, net
from random_nets import networks, run
from saved import change, converted, round_trip, same, small
from torch import Tensor, nn
from torch.nn import functional as F

import sj_parallel_conversion as sjpc

MODES = ["parallel", "spikepack", "css"]
DTYPES = [torch.float32, torch.float64, torch.bfloat16]


def assert_same(snn: sjpc.SpikingNetwork, other: sjpc.SpikingNetwork, x: object) -> None:
    """In every execution that the network has, and in all that describes it."""
    assert str(other) == str(snn) and other.operation_names == snn.operation_names
    assert other.config == snn.config and other.signature.sizes == snn.signature.sizes
    for (name, value), (other_name, twin) in zip(snn.named_parameters(), other.named_parameters(), strict=True):
        assert name == other_name and torch.equal(value, twin) and value.stride() == twin.stride()
        assert value.requires_grad == twin.requires_grad
    assert [name for name, _ in snn.named_buffers()] == [name for name, _ in other.named_buffers()]
    assert list(snn.state_dict()) == list(other.state_dict())
    for execution in ("spikes", "packed", "stepwise", "serial"):
        try:
            snn.execution = execution
        except sjpc.ConfigError:
            with pytest.raises(sjpc.ConfigError):
                other.execution = execution
            continue
        other.execution = execution
        assert same(run(snn.predict, x), run(other.predict, x))


@pytest.mark.parametrize("name", NETS)
@torch.no_grad()
def test_every_network(name: str, tmp_path: Path) -> None:
    k = list(NETS).index(name)
    ann, x = net(name)
    dtype = DTYPES[k % 2] if x.dim() == 5 else DTYPES[k // 3 % 3]  # torch pools no volumes of bfloat16
    snn = converted(ann.to(dtype), x.to(dtype), mode=MODES[k % 3], fold=k % 5 > 0)
    assert_same(snn, round_trip(snn, tmp_path), x.to(dtype))


@settings(max_examples=settings().max_examples // 10 + 1)
@given(network=networks(), mode=st.sampled_from(MODES), fold=st.booleans())
@torch.no_grad()
def test_random_networks(tmp_path_factory: pytest.TempPathFactory, network: tuple, mode: str, fold: bool) -> None:
    ann, x = network
    try:
        snn = converted(ann, x, mode=mode, fold=fold)
    except sjpc.SJPCError:
        return
    assert_same(snn, round_trip(snn, tmp_path_factory.mktemp("files")), x)


def test_what_was_set(tmp_path: Path) -> None:
    ann, x = net("concatenated")
    snn = converted(ann, x, mode="spikepack", fold=False, calibration="least_squares", free_sizes=False)
    snn.execution, snn.step_mode = "packed", "m"
    snn.train()
    snn.net.head.eval()
    snn.net.head.weight.requires_grad_(False)
    snn.neurons()[0].packed = False
    snn.neurons()[1].node.serial = True
    other = round_trip(snn, tmp_path)
    assert (other.execution, other.step_mode, other.training) == ("packed", "m", True)
    assert [m.training for m in other.modules()] == [m.training for m in snn.modules()]
    assert [p.requires_grad for p in other.parameters()] == [p.requires_grad for p in snn.parameters()]
    assert [site.packed for site in other.neurons()] == [site.packed for site in snn.neurons()]
    assert [site.node.serial for site in other.neurons()] == [False, True, False]
    assert same(snn.predict(x), other.predict(x))
    assert other.config == snn.config and other.config.free_sizes is False
    other = round_trip(snn.half(), tmp_path, device="cpu")
    assert {p.dtype for p in other.parameters()} == {torch.float16}
    assert same(snn.predict(x.half()), other.predict(x.half()))


@torch.no_grad()
def test_other_memory_formats_and_tied_tensors(tmp_path: Path) -> None:
    snn, x = small()
    snn = snn.to(memory_format=torch.channels_last)
    snn.net.register_buffer("turned", torch.view_as_complex(torch.randn(3, 4, 2)).t(), persistent=False)
    snn.net.register_parameter("again", snn.net.head.weight)
    other = round_trip(snn, tmp_path)
    assert other.net.head.weight.stride() == snn.net.head.weight.stride() != snn.net.head.weight.contiguous().stride()
    assert torch.equal(other.net.turned, snn.net.turned) and other.net.turned.stride() == snn.net.turned.stride()
    assert "net.turned" not in other.state_dict()
    assert other.net.again is other.net.head.weight
    assert same(snn.predict(x), other.predict(x))


class Named(nn.Sequential):
    """Has an attribute and a method."""

    colour = "red"

    def twice(self, x: Tensor) -> Tensor:
        return self(x) * 2


def test_a_model_gives_its_methods_and_an_inference_mode_does_no_harm(tmp_path: Path) -> None:
    ann = Named(nn.Linear(6, 4), nn.ReLU())
    snn = converted(ann, TOKENS)
    with pytest.raises(AttributeError):
        _ = round_trip(snn, tmp_path).colour
    with torch.inference_mode():
        other = round_trip(snn, tmp_path, model=ann)
    assert other.colour == "red" and same(other.twice(TOKENS), snn.predict(TOKENS) * 2)
    other.requires_grad_().predict(TOKENS).sum().backward()


@pytest.mark.parametrize("make", [sjpc.prepack, sjpc.to_int8])
@torch.no_grad()
def test_prepacked_and_int8(make: object, tmp_path: Path) -> None:
    snn, x = small()
    fast = make(snn)
    assert_same(fast, round_trip(fast, tmp_path), x)
    other = round_trip(fast, tmp_path)
    assert [type(m) for m in other.net.modules()][1:] == [type(m) for m in fast.net.modules()][1:]
    assert [len(site.source) for site in other.neurons()] == [len(site.source) for site in fast.neurons()]


def test_it_can_be_trained_copied_and_saved_again(tmp_path: Path) -> None:
    snn, x = small()
    snn.requires_grad_()
    other = round_trip(round_trip(snn, tmp_path), tmp_path)
    for network in (snn, other):
        network.predict(x).square().sum().backward()
    pairs = zip(snn.parameters(), other.parameters(), strict=True)
    assert all(p.grad is q.grad is None or torch.equal(p.grad, q.grad) for p, q in pairs)
    assert same(copy.deepcopy(other).predict(x), snn.predict(x))
    torch.save(other, tmp_path / "pickled")
    assert same(torch.load(tmp_path / "pickled", weights_only=False).predict(x), snn.predict(x))


LOADER = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torchvision", "transformers", "nets", "saved"):
            raise ImportError(name)

def watch(event, args):
    if event in ("pickle.find_class", "os.system", "subprocess.Popen", "os.exec", "ctypes.dlopen"):
        raise AssertionError(event)

sys.meta_path.insert(0, Refuse())
import torch
import sj_parallel_conversion as sjpc
x = torch.load(sys.argv[2], weights_only=True)
sys.addaudithook(watch)
snn = sjpc.load(sys.argv[1])
with torch.no_grad():
    for execution in ("spikes", "packed", "stepwise"):
        snn.execution = execution
        torch.save(snn.predict(x), sys.argv[2] + execution)
"""


@torch.no_grad()
def test_another_process_without_the_code_of_the_model(tmp_path: Path) -> None:
    snn, x = small()
    sjpc.save(snn, tmp_path / "network")
    torch.save(x, tmp_path / "x")
    root = Path(sjpc.__file__).parents[1]
    paths = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-c", LOADER, str(tmp_path / "network"), str(tmp_path / "x")]
    subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": paths}, cwd=tmp_path)
    for execution in ("spikes", "packed", "stepwise"):
        snn.execution = execution
        assert same(torch.load(tmp_path / f"x{execution}", weights_only=True), snn.predict(x))


# inputs and outputs

Pair = namedtuple("Pair", ["first", "second"])


@dataclass
class Answer:
    scores: Tensor
    note: str


def own_field(kind: type) -> str:
    """The name of the first field."""
    return kind._fields[0] if kind is Pair else "scores"


class Outputs(nn.Module):
    """Returns one of many types, and takes two inputs by name."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.fc, self.kind = nn.Linear(6, 4), kind

    def forward(self, x: Tensor, mask: Tensor | None = None, scale: float = 1.0) -> object:
        y = F.relu(self.fc(x)) * scale
        y = y if mask is None else y * mask.unsqueeze(-1)
        return {
            "tuple": lambda: (y, "word", None, [y + 1, 2]),
            "dict": lambda: {"a": y, 3: (y * 2,)},
            "ordered": lambda: OrderedDict(b=y, a=y + 1),
            "size": lambda: {"a": y, "size": y.shape, "inner": [y.size()[1:]]},
            "pair": lambda: Pair(y, y + 1),
            "answer": lambda: Answer(y, "word"),
        }[self.kind]()


@pytest.mark.parametrize("kind", ["tuple", "dict", "ordered", "size"])
@torch.no_grad()
def test_plain_outputs_come_back_exactly(kind: str, tmp_path: Path) -> None:
    x = {"x": TOKENS, "mask": torch.rand(7, 5), "scale": 0.5}
    snn = converted(Outputs(kind), x)
    other = round_trip(snn, tmp_path)
    y, z = run(snn.predict, x), run(other.predict, x)
    assert same(y, z) and str(y) == str(z)
    with pytest.raises(sjpc.DataError, match="scale"):
        other.predict(**x | {"scale": 2.0})
    with pytest.raises(sjpc.DataError, match=r"x.shape\[2\]"):
        other.predict(**x | {"x": torch.randn(7, 5, 3)})


@pytest.mark.parametrize(("kind", "own", "instead"), [("pair", Pair, tuple), ("answer", Answer, OrderedDict)])
@torch.no_grad()
def test_own_types_need_their_class(kind: str, own: type, instead: type, tmp_path: Path) -> None:
    snn = converted(Outputs(kind), TOKENS)
    expected = snn.predict(TOKENS)
    with pytest.warns(UserWarning, match=f"classes=\\[{own.__name__}\\]"):
        other = round_trip(snn, tmp_path)
    found = other.predict(TOKENS)
    assert type(found) is instead and type(expected) is own
    assert torch.equal(next(iter(found if instead is tuple else found.values())), getattr(expected, own_field(own)))
    again = round_trip(snn, tmp_path, classes=[own]).predict(TOKENS)
    assert type(again) is own and str(again) == str(expected)


# what users register


class Doubling(nn.Module):
    """A leaf with a setting, a parameter and a layer."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor, self.sizes = factor, (1, 2)
        self.shift, self.fc = nn.Parameter(torch.ones(4)), nn.Sequential(nn.Linear(4, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x) * self.factor + self.shift


def bump(x: Tensor, width: float) -> Tensor:
    """An activation that is a function."""
    return torch.relu(width - x.abs())


class Registered(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer, self.leaf = nn.Linear(6, 4), nn.Linear(4, 3), Doubling(2.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.outer(F.relu(self.leaf(bump(self.inner(x), 2.0))))


@torch.no_grad()
def test_registered_leaves_and_functions_are_the_readers(tmp_path: Path) -> None:
    sjpc.register_leaf(Doubling)
    sjpc.register_activation(bump)
    try:
        snn = converted(Registered(), TOKENS)
        with pytest.warns(UserWarning, match=r"Doubling, .*bump"):
            other = round_trip(snn, tmp_path)
        assert same(snn.predict(TOKENS), other.predict(TOKENS)) and other.net.leaf.sizes == (1, 2)
    finally:
        sjpc.unregister_activation(bump)
        with pytest.raises(sjpc.FileError, match=r"function .*bump.*register_activation"):
            sjpc.load(tmp_path / "network.sjpc")
        sjpc.register_activation(bump)
        sjpc.unregister_leaf(Doubling)
    with pytest.raises(sjpc.FileError, match=r"network.sjpc: layer 'leaf': it is a .*Doubling.*register_leaf"):
        sjpc.load(tmp_path / "network.sjpc")
    sjpc.unregister_activation(bump)


@torch.no_grad()
def test_recurrent_layers_are_known(tmp_path: Path) -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.fc = nn.LSTM(6, 5, 2, batch_first=True, bidirectional=True), nn.Linear(10, 4)

        def forward(self, x: Tensor) -> Tensor:
            y, (h, _) = self.lstm(x)
            y, _ = self.lstm(y[..., :6] + h.mean())  # twice, and so under two names
            return F.relu(self.fc(y)).mean(1)

    snn = converted(Recurrent(), TOKENS)
    assert_same(snn, round_trip(snn, tmp_path), TOKENS)


# models in parts


@torch.no_grad()
def test_parts_go_into_a_model_of_the_readers(tmp_path: Path) -> None:
    snn = convert(detector(), PARTS)
    snn.parts["backbone"].execution = "packed"
    path = tmp_path / "parts"
    sjpc.save(snn, path)
    fresh = detector()
    for value in fresh.parameters():
        value.normal_()
    before = copy.deepcopy(fresh.state_dict())
    other = sjpc.load(path, model=fresh)
    assert list(other.parts) == list(snn.parts) and other.execution == "mixed"
    assert same_boxes(snn(IMAGES), other(IMAGES))
    fast = sjpc.prepack(snn)
    assert same_boxes(fast(IMAGES), round_trip(fast, tmp_path, model=fresh)(IMAGES))
    assert all(torch.equal(value, before[name]) for name, value in fresh.state_dict().items())
    with pytest.raises(sjpc.DataError, match="sequence"):
        other(IMAGES.expand(4, *IMAGES.shape))
    with pytest.raises(sjpc.FileError, match=r"converted in parts.*model=model"):
        sjpc.load(path)
    with pytest.raises(sjpc.FileError, match="has no such submodule"):
        sjpc.load(path, model=nn.Linear(2, 2))
    fresh.head.scores = nn.Conv2d(6, 3, 1)
    with pytest.raises(sjpc.FileError, match=r"'head.scores.weight' has shape \[2, 6, 1, 1\] in the file"):
        sjpc.load(path, model=fresh)
    del fresh.head.scores
    with pytest.raises(sjpc.FileError, match=r"head\.scores.*another model"):
        sjpc.load(path, model=fresh)


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a CUDA device")
@torch.no_grad()
def test_a_network_of_the_cuda_kernel_runs_on_torch_without_one(tmp_path: Path) -> None:
    snn, x = small()
    sjpc.save(snn, tmp_path / "network.sjpc")

    def as_on_a_gpu(structure: dict) -> None:
        structure["network"]["config"]["backend"] = "cupy"
        structure["device"] = "cuda:7"
        for record in structure["network"]["modules"]:
            if "backend" in record.get("attributes", {}):
                record["attributes"]["backend"] = "cupy"

    change(tmp_path / "network.sjpc", as_on_a_gpu)
    with pytest.warns(UserWarning, match="run on torch"):
        other = sjpc.load(tmp_path / "network.sjpc")
    assert other.backend == "torch" and same(snn.predict(x), other.predict(x))
