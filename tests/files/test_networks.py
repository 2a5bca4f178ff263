"""What is saved is loaded, to the bit, in every execution, with all that was set on it."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nets import NETS, TOKENS, net
from random_nets import networks, run
from saved import converted, round_trip, same, small
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


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("mode", MODES)
@torch.no_grad()
def test_a_network_on_a_gpu(mode: str, tmp_path: Path) -> None:
    ann, x = net("concatenated")
    snn = converted(ann, x, mode=mode).cuda()
    assert_same(snn, round_trip(snn, tmp_path), x.cuda())
    sjpc.save(snn, tmp_path / "of_gpu.sjpc")
    assert_same(snn.cpu(), sjpc.load(tmp_path / "of_gpu.sjpc", device="cpu"), x)


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
