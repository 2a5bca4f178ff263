"""Prepacked weights: the same network in every execution, and never a stale weight."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from nets import IMAGES, net
from torch import Tensor, nn

import sj_parallel_conversion as sjpc
from sj_parallel_conversion.ann2snn.cpu.prepack import PrepackedConv2d, prepack_convolutions

pytestmark = pytest.mark.skipif(
    not (torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_convolution_pointwise")),
    reason="no oneDNN",
)


def convert(name: str, **options: object) -> tuple[sjpc.SpikingNetwork, Tensor]:
    ann, x = net(name)
    options = {"time_steps": 4, "threshold": "max", "calibration": "none", "show_progress": False} | options
    return sjpc.ParallelConverter([x], **options).convert(ann), x


def prepacked(snn: nn.Module) -> list[str]:
    return [name for name, module in snn.named_modules() if isinstance(module, PrepackedConv2d)]


@given(
    groups=st.sampled_from([1, 2, 3]), channels=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    kernel_size=st.integers(1, 4), stride=st.integers(1, 3), padding=st.integers(0, 2), dilation=st.integers(1, 2),
    bias=st.booleans(), batch=st.integers(0, 3), channels_last=st.booleans(),
)  # fmt: skip
@torch.no_grad()
def test_convolution_equals_torchs(
    groups: int, channels: tuple[int, int], kernel_size: int, stride: int, padding: int, dilation: int, bias: bool,
    batch: int, channels_last: bool,
) -> None:  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    in_channels, out_channels = (groups * c for c in channels)
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias)
    twin = copy.deepcopy(conv)
    assert prepack_convolutions(twin) == 1 and isinstance(twin, PrepackedConv2d)
    for n in (batch, 2):  # another size of batch does not disturb what was packed
        x = torch.randn(n, in_channels, 9, 8, generator=generator)
        x = x.contiguous(memory_format=torch.channels_last) if channels_last else x
        torch.testing.assert_close(twin(x), conv(x), rtol=1e-4, atol=1e-5, check_stride=False)


@pytest.mark.parametrize("execution", ["packed", "spikes", "stepwise"])
@pytest.mark.parametrize("mode", ["parallel", "spikepack", "css"])
@pytest.mark.parametrize("name", ["shared conv", "concatenated", "conv 2d, groups, no bias", "in-place in branches"])
@torch.no_grad()
def test_same_network_in_every_execution(name: str, mode: str, execution: str) -> None:
    snn, x = convert(name, mode=mode)
    snn.execution = execution
    before, expected = copy.deepcopy(snn.state_dict()), snn.predict(x)
    packed = sjpc.prepack(snn)
    assert prepacked(packed) and not prepacked(snn)
    for copied in (packed, copy.deepcopy(packed), pickle.loads(pickle.dumps(packed))):
        # A level that lies within rounding of a threshold may move; in these networks none does.
        torch.testing.assert_close(copied.predict(x), expected, rtol=1e-4, atol=1e-5)
    assert all(torch.equal(value, before[key]) for key, value in packed.state_dict().items())


@torch.no_grad()
def test_no_stale_weights() -> None:
    snn, x = convert("conv 2d")
    packed, other = sjpc.prepack(snn), convert("conv 2d", threshold="mse")[0]
    conv = packed.get_submodule(prepacked(packed)[0])
    packed.predict(x)  # has packed its weights
    packed.load_state_dict(other.state_dict())
    torch.testing.assert_close(packed.predict(x), other.predict(x), rtol=1e-4, atol=1e-5)
    conv.weight.mul_(2)
    twin = nn.Conv2d(conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding)
    twin.load_state_dict(conv.state_dict())
    torch.testing.assert_close(conv(x), twin(x), rtol=1e-4, atol=1e-5, check_stride=False)
    conv.weight = nn.Parameter(-conv.weight)
    twin.load_state_dict(conv.state_dict())
    torch.testing.assert_close(conv(x), twin(x), rtol=1e-4, atol=1e-5, check_stride=False)


def test_where_the_kernel_does_not_apply_torchs_does() -> None:
    """Autograd, other types, one image without a batch, and weights that were made in inference mode."""
    snn, x = convert("conv 2d")
    packed = sjpc.prepack(snn)
    packed.predict(x)
    conv = packed.get_submodule(prepacked(packed)[0])
    assert conv._packed is not None, "nothing asks for a gradient, so that no torch.no_grad() is needed"
    conv.requires_grad_()(x).sum().backward()
    assert conv._packed is None
    assert conv.weight.grad is not None
    with torch.no_grad():
        torch.testing.assert_close(packed.double().predict(x.double()), snn.double().predict(x.double()))
        conv = packed.float().get_submodule(prepacked(packed)[0])
        torch.testing.assert_close(conv(x[0]), conv(x[:1])[0], rtol=1e-4, atol=1e-5, check_stride=False)
    with torch.inference_mode():
        frozen = copy.deepcopy(conv)
        torch.testing.assert_close(frozen(x), conv(x), check_stride=False)


@torch.no_grad()
def test_hooks_keep_what_they_saw() -> None:
    """Nodes write over currents that nobody else reads; a hook on a convolution is somebody."""
    snn, x = convert("conv 2d")
    packed, kept = sjpc.prepack(snn), []
    packed.execution = "packed"
    for name in prepacked(packed):
        packed.get_submodule(name).register_forward_hook(lambda module, args, y: kept.append((y, y.clone())))
    packed.predict(x)
    assert kept and all(torch.equal(seen, then) for seen, then in kept)


@torch.no_grad()
def test_parts_of_a_model() -> None:
    ann = nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3)), nn.Conv2d(4, 2, 1)).eval()
    options = {"time_steps": 4, "threshold": "max", "calibration": "none", "show_progress": False}
    snn = sjpc.ParallelConverter([IMAGES], **options).convert(ann, submodules=["0"])
    packed = sjpc.prepack(snn)
    assert len(prepacked(packed)) == 2, "the layers of the ANN around the parts stay what they are"
    torch.testing.assert_close(packed(IMAGES), snn(IMAGES), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["conv 2d", "shared conv"])  # of other sizes: those become symbols
@torch.no_grad()
def test_torch_compile_sees_plain_convolutions(name: str) -> None:
    snn, x = convert(name)
    packed = sjpc.prepack(snn)
    packed.execution = "packed"
    compiled = torch.compile(packed.predict, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), packed.predict(x), rtol=1e-4, atol=1e-5)


def test_wrong_inputs() -> None:
    with pytest.raises(sjpc.ConfigError, match="prepack takes a converted network, got Linear"):
        sjpc.prepack(nn.Linear(1, 1))


@torch.no_grad()
def test_nothing_to_pack() -> None:
    mlp, x = convert("mlp")
    for snn in (mlp, convert("conv 2d")[0].double(), sjpc.prepack(convert("conv 2d")[0])):
        with pytest.warns(UserWarning, match="no 2-D convolution in float32"):
            packed = sjpc.prepack(snn)
        assert packed is not snn
        if snn is mlp:
            assert torch.equal(packed.predict(x), mlp.predict(x))


@pytest.mark.parametrize("optimiser", [torch.optim.SGD, torch.optim.AdamW])
def test_a_training_step_is_seen(optimiser: type[torch.optim.Optimizer]) -> None:
    """Fused optimisers do not count a weight's versions."""
    snn, x = convert("conv 2d", fold=False)
    packed = sjpc.prepack(snn)
    with torch.no_grad():
        packed.predict(x)  # has packed its weights
    step = optimiser(packed.parameters(), lr=0.05, fused=True)
    packed.predict(x).square().sum().backward()
    step.step()
    with torch.no_grad():
        torch.testing.assert_close(packed.predict(x), copy.deepcopy(packed).predict(x))


@torch.no_grad()
def test_weights_that_come_and_go() -> None:
    """An address may be used again: neither it nor a version alone tells one weight from another."""
    snn, x = convert("conv 2d")
    packed = sjpc.prepack(snn)
    conv = packed.get_submodule(prepacked(packed)[0])
    for factor in (1.5, 0.5, 3.0, 0.1):
        weight = (conv.weight * factor).numpy().copy()
        del conv.weight
        conv.weight = nn.Parameter(torch.from_numpy(weight.copy()))
        plain = nn.functional.conv2d(x, conv.weight, conv.bias, conv.stride, conv.padding)
        torch.testing.assert_close(conv(x), plain, rtol=1e-4, atol=1e-5, check_stride=False)
        packed.bfloat16().float()
        plain = nn.functional.conv2d(x, conv.weight, conv.bias, conv.stride, conv.padding)
        torch.testing.assert_close(conv(x), plain, rtol=1e-4, atol=1e-5, check_stride=False)


def test_made_in_inference_mode() -> None:
    snn, x = convert("conv 2d")
    with torch.inference_mode():
        packed = sjpc.prepack(snn)
        packed.predict(x)
        packed.load_state_dict({key: value / 2 for key, value in snn.state_dict().items()})
        torch.testing.assert_close(packed.predict(x), copy.deepcopy(packed).predict(x))


def test_inspect_counts_what_it_counted() -> None:
    snn, _ = convert("conv 2d")
    before, after = (sjpc.inspect(network, show=False) for network in (snn, sjpc.prepack(snn)))
    assert [(row.name, row.kind, row.macs) for row in before.rows] == [
        (row.name, row.kind, row.macs) for row in after.rows
    ]
