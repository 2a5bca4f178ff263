"""int8 weights: near the float network, exact for 8-bit weights, and refused where nothing is gained."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest
import torch
from nets import IMAGES, TOKENS, net
from torch import Tensor, nn

import sj_parallel_conversion as sjpc
from sj_parallel_conversion.ann2snn.cpu import int8_layers
from sj_parallel_conversion.ann2snn.cpu.int8_layers import Int8Conv2d, Int8Linear

pytestmark = pytest.mark.skipif(
    not (torch.backends.mkldnn.is_available() and hasattr(torch.ops.onednn, "qconv2d_pointwise")), reason="no oneDNN"
)


def convert(ann: nn.Module, x: Tensor, **options: object) -> sjpc.SpikingNetwork:
    options = {"time_steps": 8, "threshold": "max", "calibration": "da_qcfs", "show_progress": False} | options
    return sjpc.ParallelConverter([x], **options).convert(ann)


def two_convs() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3, padding=1, groups=2), nn.ReLU(),
        nn.Flatten(), nn.Linear(200, 5),
    ).eval()  # fmt: skip


def integer_layers(snn: sjpc.SpikingNetwork) -> list[str]:
    return [name for name, module in snn.net.named_modules() if isinstance(module, (Int8Conv2d, Int8Linear))]


@pytest.mark.parametrize("mode", ["parallel", "spikepack", "css"])
@torch.no_grad()
def test_near_the_float_network(mode: str) -> None:
    snn = convert(two_convs(), IMAGES, mode=mode)
    int8 = sjpc.to_int8(snn)
    assert integer_layers(int8) == ["3", "6"] and not integer_layers(snn)
    assert int8.execution == "packed" and snn.execution == "spikes"
    expected = snn.predict(IMAGES)
    assert (int8.predict(IMAGES) - expected).norm() < 0.1 * expected.norm()
    torch.testing.assert_close(int8.predict(IMAGES[:3]), int8.predict(IMAGES)[:3], msg="another size of batch")


@pytest.mark.parametrize("mode", ["parallel", "spikepack"])
@torch.no_grad()
def test_layers_emit_the_levels_of_neurons_that_int8_layers_read(mode: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    ann = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 1), nn.ReLU6(), nn.Conv2d(16, 16, 3, groups=16, bias=False),
        nn.ReLU(), nn.Flatten(), nn.Linear(576, 12), nn.ReLU(), nn.Linear(12, 5),
    ).eval()  # fmt: skip
    small = sjpc.to_int8(convert(ann, torch.randn(8, 3, 10, 10), mode=mode))
    x = torch.randn(6, 3, 10, 10)
    seen: dict[str, torch.dtype] = {}
    handles = [
        small.net.get_submodule(name).register_forward_hook(
            lambda module, args, output, name=name: seen.update({name: args[0].dtype})
        )
        for name in ("4", "9")  # the layers that read the second and the last neuron
    ]
    fast = small.predict(x)
    assert set(seen.values()) == {torch.uint8}
    # a hook on a neuron sees its currents; the answers are the same
    currents: list[Tensor] = []
    for name in ("3", "5", "8"):
        small.net.get_submodule(name).register_forward_hook(lambda module, args, output: currents.append(args[0]))
    assert torch.equal(small.predict(x), fast)
    assert [c.dtype for c in currents] == [torch.float32] * 3
    for handle in handles:
        handle.remove()
    for name in ("3", "5", "8"):
        small.net.get_submodule(name)._forward_hooks.clear()
    for copied in (copy.deepcopy(small), pickle.loads(pickle.dumps(small))):
        assert torch.equal(copied.predict(x), fast)
    small.execution = "spikes"
    torch.testing.assert_close(small.predict(x), fast)
    small = sjpc.to_int8(convert(ann, torch.randn(8, 3, 10, 10), mode=mode))
    sjpc.save(small, tmp_path / "int8.sjpc")
    loaded = sjpc.load(tmp_path / "int8.sjpc")
    assert torch.equal(loaded.predict(x), small.predict(x)) and loaded.net.get_submodule("3").levels_from


def test_seven_bits_where_they_are_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two products of a weight of 127 and a level of 129 fit into 16 bits."""
    for wide, largest in ((True, (127, 127)), (False, (127, 64))):
        monkeypatch.setattr(int8_layers, "adds_in_32_bits", lambda wide=wide: wide)
        assert tuple(int8_layers.largest_weight(level) for level in (129, 130)) == largest
    for steps, largest in ((129, 127), (130, 64)):
        network = sjpc.to_int8(convert(two_convs(), IMAGES, time_steps=steps))
        assert {int(network.get_submodule(f"net.{name}").weight.abs().max()) for name in integer_layers(network)} == {
            largest
        }


@torch.no_grad()
def test_state_dict() -> None:
    snn = convert(two_convs(), IMAGES)
    first, second = sjpc.to_int8(snn), sjpc.to_int8(convert(two_convs(), IMAGES + 1))
    second.predict(IMAGES)  # has prepared its weights
    second.load_state_dict(first.state_dict())
    assert torch.equal(second.predict(IMAGES), first.predict(IMAGES))


@torch.no_grad()
def test_to_empty() -> None:
    int8 = sjpc.to_int8(convert(two_convs(), IMAGES))
    expected, state = int8.predict(IMAGES), copy.deepcopy(int8.state_dict())
    layer = int8.net.get_submodule("3")
    before = layer(torch.ones(1, 8, 5, 5))
    int8.to_empty(device="cpu")
    for buffer in layer.buffers():
        buffer.zero_()
    assert not layer(torch.ones(1, 8, 5, 5)).any() and before.any(), "the weights are not those that were packed before"
    int8.load_state_dict(state)
    assert torch.equal(int8.predict(IMAGES), expected)


@torch.no_grad()
def test_averages_of_levels_are_no_integers() -> None:
    torch.manual_seed(0)
    before = [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AvgPool2d(2)]
    ann = nn.Sequential(*before, nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1))
    assert integer_layers(sjpc.to_int8(convert(ann.eval(), IMAGES))) == ["5"]


@torch.no_grad()
def test_linear_layers_on_tokens() -> None:
    torch.manual_seed(0)
    ann = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    snn = convert(ann, TOKENS)
    expected = snn.predict(TOKENS)
    assert (sjpc.to_int8(snn).predict(TOKENS) - expected).norm() < 0.1 * expected.norm()


def with_activations(*activations: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    first, second = activations
    return nn.Sequential(nn.Conv2d(3, 4, 3), first, nn.Conv2d(4, 4, 3), second, nn.Conv2d(4, 2, 1)).eval()


@pytest.mark.parametrize("mode", ["parallel", "spikepack", "css"])
@torch.no_grad()
def test_bytes_hold_no_negative_levels(mode: str) -> None:
    """Layers behind signed neurons stay as they are; neurons with an activation of their own may be positive."""
    for activations, layers in (((nn.SiLU(), nn.Sigmoid()), ["4"]), ((nn.ReLU(), nn.GELU()), ["2"])):
        snn = convert(with_activations(*activations), IMAGES, mode=mode)
        int8 = sjpc.to_int8(snn)
        assert integer_layers(int8) == layers
        expected = snn.predict(IMAGES)
        assert (int8.predict(IMAGES) - expected).norm() < 0.1 * expected.norm()
    with pytest.raises(sjpc.ConfigError, match="no 2-D convolution and no linear layer reads levels from 0 to 255"):
        sjpc.to_int8(convert(with_activations(nn.SiLU(), nn.GELU()), IMAGES, mode=mode))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("mlp", {"fold": False}),
        ("mlp", {"time_steps": 256}),
        ("mlp", {"mode": "css", "time_steps": 9}),
        ("conv 3d", {}),
    ],
)
def test_refused_where_no_layer_reads_small_levels(name: str, options: dict) -> None:
    ann, x = net(name)
    if name == "conv 3d":
        ann = nn.Sequential(nn.Conv3d(4, 4, 3), nn.ReLU(), nn.Conv3d(4, 4, 3)).eval()
    with pytest.raises(sjpc.ConfigError, match="no 2-D convolution and no linear layer reads levels from 0 to 255"):
        sjpc.to_int8(convert(ann, x, **options))


@torch.no_grad()
def test_hooks_keep_what_they_saw() -> None:
    """Nodes write over currents that nobody else reads; a hook on a layer is somebody."""
    int8, kept = sjpc.to_int8(convert(with_activations(nn.ReLU(), nn.ReLU()), IMAGES)), []
    for name in integer_layers(int8):
        int8.net.get_submodule(name).register_forward_hook(lambda module, args, y: kept.append((y, y.clone())))
    int8.predict(IMAGES)
    assert len(kept) == 2 and all(torch.equal(seen, then) for seen, then in kept)


@torch.no_grad()
def test_hooks_go_on_listening() -> None:
    snn, seen = convert(with_activations(nn.ReLU(), nn.ReLU()), IMAGES), []
    for name in integer_layers(sjpc.to_int8(snn)):
        layer = snn.net.get_submodule(name)
        layer.register_forward_pre_hook(lambda module, args, kwargs: seen.append("before"), with_kwargs=True)
        layer.register_forward_hook(lambda module, args, y: seen.append("after"), always_call=True)
    sjpc.to_int8(snn).predict(IMAGES)
    assert seen == 2 * ["before", "after"]


@torch.no_grad()
def test_a_prepacked_network_may_be_given() -> None:
    snn = convert(two_convs(), IMAGES)
    assert torch.equal(sjpc.to_int8(sjpc.prepack(snn)).predict(IMAGES), sjpc.to_int8(snn).predict(IMAGES))


def test_takes_networks_that_were_converted_as_a_whole() -> None:
    with pytest.raises(sjpc.ConfigError, match="to_int8 takes a converted network, got Linear"):
        sjpc.to_int8(nn.Linear(1, 1))
    partly = sjpc.ParallelConverter([IMAGES], show_progress=False).convert(nn.Sequential(two_convs()), submodules=["0"])
    with pytest.raises(sjpc.ConfigError, match=r"snn\.parts"):
        sjpc.to_int8(partly)


def test_float32_on_the_cpu_alone() -> None:
    with pytest.raises(sjpc.ConfigError, match=r"snn\.float\(\)"):
        sjpc.to_int8(convert(two_convs(), IMAGES).double())
    with pytest.raises(sjpc.DataError, match="for CPUs"):
        sjpc.to_int8(convert(two_convs(), IMAGES)).predict(IMAGES.to("meta"))


def test_inspect_wants_the_network_before() -> None:
    with pytest.raises(sjpc.DataError, match="give it the network that to_int8 was given"):
        sjpc.inspect(sjpc.to_int8(convert(two_convs(), IMAGES)))


@torch.no_grad()
def test_weights_that_are_no_numbers_are_refused() -> None:
    for name, value in (("3", float("nan")), ("6", float("inf"))):
        snn = convert(two_convs(), IMAGES)
        snn.net.get_submodule(name).weight[0] = value
        with pytest.raises(sjpc.ConfigError, match=f"layer '{name}' has NaN or infinite weights"):
            sjpc.to_int8(snn)


@torch.no_grad()
def test_int8_networks_are_not_made_again() -> None:
    with pytest.raises(sjpc.ConfigError, match="int8 weights already"):
        sjpc.to_int8(sjpc.to_int8(convert(two_convs(), IMAGES)), [IMAGES])


@torch.no_grad()
def test_dropout_is_gone(tmp_path: Path) -> None:
    ann = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(800, 5)).eval()
    snn, seen = convert(ann, IMAGES), []
    snn.net.get_submodule("2").register_forward_hook(lambda module, args, y: seen.append(y.dtype))
    small = sjpc.to_int8(snn)
    expected = small.predict(IMAGES)
    assert torch.equal(small.train().predict(IMAGES), expected) and seen == [torch.uint8] * 2
    sjpc.save(small, tmp_path / "int8.sjpc")
    assert torch.equal(sjpc.load(tmp_path / "int8.sjpc").predict(IMAGES), expected)
