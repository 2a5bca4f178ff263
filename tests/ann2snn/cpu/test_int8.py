"""int8 weights: near the float network, exact for 8-bit weights, and refused where nothing is gained."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from nets import IMAGES, TOKENS, net
from torch import Tensor, nn

import sj_parallel_conversion as sjpc
from sj_parallel_conversion.ann2snn.cpu.int8 import Int8Conv2d, Int8Linear

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


@pytest.mark.parametrize(
    "layer",
    [nn.Conv2d(4, 6, 3, stride=2, padding=1), nn.Conv2d(4, 4, 3, groups=4, bias=False, dilation=2), nn.Linear(4, 6)],
)
@torch.no_grad()
def test_integer_arithmetic_is_exact(layer: nn.Module) -> None:
    """Weights that are multiples of 1/127 of the largest lose nothing, so sums differ by float rounding alone."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randint(-127, 128, layer.weight.shape, generator=generator).float()
    weight.flatten(1)[:, 0] = 127
    layer.weight.copy_(weight / 64)
    linear = isinstance(layer, nn.Linear)
    levels = torch.randint(0, 256, (5, 4) if linear else (5, 4, 9, 9), generator=generator).float()
    twin = (Int8Linear if linear else Int8Conv2d)(layer)
    torch.testing.assert_close(twin(levels).contiguous(), layer(levels), rtol=1e-5, atol=1e-3)
    for copied in (copy.deepcopy(twin), pickle.loads(pickle.dumps(twin))):
        assert torch.equal(copied(levels), twin(levels))


@torch.no_grad()
def test_state_dict() -> None:
    snn = convert(two_convs(), IMAGES)
    first, second = sjpc.to_int8(snn), sjpc.to_int8(convert(two_convs(), IMAGES + 1))
    second.predict(IMAGES)  # has prepared its weights
    second.load_state_dict(first.state_dict())
    assert torch.equal(second.predict(IMAGES), first.predict(IMAGES))


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
    with pytest.raises(sjpc.ConfigError, match="no layer reads levels from 0 to 255"):
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
    with pytest.raises(sjpc.ConfigError, match="no layer reads levels from 0 to 255"):
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
