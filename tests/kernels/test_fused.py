"""The kernel's own text, built for the host, against the torch form: bits, layouts, gradients."""

from __future__ import annotations

import itertools

import pytest
import torch
from forms import DTYPES, KINDS, assert_same, both, near_ties
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

import sj_parallel_conversion as sjpc
from sj_parallel_conversion.functional import encode
from sj_parallel_conversion.kernels import fused, spike_train
from sj_parallel_conversion.neuron import SpikingNode

pytestmark = pytest.mark.usefixtures("host_backend")
with_fixture = settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])

FOLDS = [(True, False), (False, True), (True, True)]
LAYOUTS = {
    "contiguous": lambda x: x,
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "with gaps": lambda x: torch.stack([x, x], dim=-1)[..., 0],
    "transposed": lambda x: x.transpose(0, 3).contiguous().transpose(0, 3),
    "not aligned": lambda x: torch.cat([x.new_zeros(1), x.flatten()])[1:].view(x.shape),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
@with_fixture
@given(data=st.data())
def test_static_input_gives_the_torch_form_to_the_bit(kind: str, dtype: torch.dtype, data: st.DataObject) -> None:
    T = data.draw(st.integers(1, 40 if kind == "sorted" else 12))
    shape = tuple(data.draw(st.lists(st.integers(1, 5), min_size=2, max_size=4)))
    channel_dim = data.draw(st.sampled_from([1, -1]))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**20)))

    def parameter(low: float) -> Tensor:
        size = (shape[channel_dim],) if data.draw(st.booleans()) else ()
        return torch.rand(size, generator=generator) + low

    theta, shift, psi, amplitude = parameter(0.1), parameter(-0.5), parameter(0.0), parameter(0.5)
    options = {"shift": shift} if data.draw(st.booleans()) else {}
    options |= {"psi": psi, "amplitude": amplitude} if data.draw(st.booleans()) else {}
    node = KINDS[kind](T, theta, channel_dim=channel_dim, **options).requires_grad_(False)
    x = near_ties(node, shape, generator).to(dtype)
    assert_same(node, x.expand(T, *shape))
    assert_same(node, x.unsqueeze(0).repeat(T, *[1] * len(shape)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("T", [1, 2, 3, 8])
def test_currents_that_change_over_time(kind: str, dtype: torch.dtype, T: int) -> None:
    """Sixteenths add up exactly in any order, so that nothing but the equations can make a difference."""
    x_seq = (torch.randint(-64, 192, (T, 3, 4, 6), generator=torch.Generator().manual_seed(T)) / 16).to(dtype)
    node = KINDS[kind](T, torch.tensor([0.3, 0.5, 1.0, 2.0]), shift=0.1).requires_grad_(False)
    assert_same(node, x_seq)


@pytest.mark.parametrize("kind", KINDS)
def test_any_currents_up_to_the_order_of_the_sum(kind: str) -> None:
    x_seq = torch.randn(8, 4, 64, generator=torch.Generator().manual_seed(0)) * 3 + 1
    node = KINDS[kind](8, 0.7).requires_grad_(False)
    expected, actual = both(node, x_seq)
    n = node.code.levels_per_threshold(8)
    line = (x_seq.double().mean(0) * n + 0.35) / 0.7
    clear = (line - line.round()).abs() > 1e-3
    assert torch.equal(expected[:, clear], actual[:, clear])
    assert clear.float().mean() > 0.9


@pytest.mark.parametrize("static", [True, False])
@pytest.mark.parametrize("size", [(2, 3, 4, 8), (2, 8, 3, 3), (1, 5, 1, 7)])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_memory_layouts(layout: str, dtype: torch.dtype, size: tuple[int, ...], static: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    steps = [LAYOUTS[layout]((torch.randint(-16, 64, size, generator=generator) / 16).to(dtype)) for _ in range(4)]
    x_seq = steps[0].expand(4, *size) if static else torch.stack(steps)
    node = sjpc.ParallelConversionNode(4, torch.rand(size[1], generator=generator) + 0.2).requires_grad_(False)
    assert_same(node, x_seq)
    spikes = node(x_seq)
    # Or the next convolution takes another kernel, and rounds differently.
    if layout in ("contiguous", "channels last"):
        assert spikes[0].stride() == x_seq[0].stride()
        assert node.decoded(x_seq[0]).stride() == x_seq[0].stride()
    assert node.decode(spikes).stride() == spikes[0].stride()


def test_other_layouts_of_time() -> None:
    x = torch.randint(-16, 64, (3, 4, 8, 5), generator=torch.Generator().manual_seed(0)) / 16
    node = sjpc.TSANode(5, torch.tensor([0.25, 0.5, 1.0, 2.0])).requires_grad_(False)
    assert_same(node, x.movedim(-1, 0))  # time varies fastest
    assert_same(node, torch.stack([x.movedim(-1, 0)] * 2, dim=1)[:, 0])  # gaps between the steps
    assert_same(node, x[:, :1, :, 0].expand(5, 3, 4, 8))  # the same value in all channels


@pytest.mark.parametrize("shape", [(), (1,), (3,), (1, 1), (4, 1, 3), (2, 1, 1, 1), (0, 3), (2, 3, 0)])
def test_shapes(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    node = sjpc.ParallelConversionNode(4, 0.5).requires_grad_(False)
    assert_same(node, x.expand(4, *shape))
    assert node(x.expand(4, *shape)).shape == (4, *shape)


def test_more_than_one_block_and_wide_indices(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(3, 7, 61, generator=torch.Generator().manual_seed(0))
    node = sjpc.ParallelConversionNode(3, torch.linspace(0.2, 2, 7)).requires_grad_(False)
    assert_same(node, x.expand(3, *x.shape))
    monkeypatch.setattr(fused, "WIDE_FROM", 0)
    assert_same(node, x.expand(3, *x.shape))


@pytest.mark.parametrize("T", [1, 2, 3, 7, 12])
@pytest.mark.parametrize("kind", KINDS)
def test_every_level(kind: str, T: int) -> None:
    """Every code word, and what lies beyond."""
    node = KINDS[kind](T, 1.0 if not kind.startswith("sorted") else float(T)).requires_grad_(False)
    highest = int(node.code.max_level(T))
    levels = torch.arange(-highest - 3, highest + 4).float()
    _, spikes = both(node, levels.expand(T, -1))
    expected = encode(levels.clamp(-highest if node.signed else 0, highest), node.code, T, node.signed)
    assert torch.equal(spikes, expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_not_finite(dtype: torch.dtype) -> None:
    inf, nan = float("inf"), float("nan")
    x = torch.tensor([inf, -inf, nan, 0.2], dtype=dtype)
    changing = torch.tensor([[inf, 1, -inf, nan, inf], [1, inf, 1, 1, -inf], [1, 1, 1, 1, 0], [1, 1, 1, 1, 0]])
    for kind in KINDS.values():
        node = kind(4, 0.5).requires_grad_(False)
        for call, currents in (("forward", x.expand(4, -1)), ("forward", changing.to(dtype)), ("decoded", x)):
            expected, actual = both(node, currents, call)
            torch.testing.assert_close(actual, expected, rtol=0, atol=0, equal_nan=True)
    with torch.no_grad():  # bytes: a NaN emits no spike
        assert sjpc.ParallelConversionNode(4, 0.5).spikes(x.expand(4, -1)).isnan().any()
        node.backend = "cupy"
        assert node.spikes(x.expand(4, -1))[:, 2].eq(0).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("static", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_are_those_of_the_torch_form(kind: str, static: bool, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    theta = torch.tensor([0.5, 1.0, 2.0])
    node = KINDS[kind](4, theta, shift=torch.tensor([0.1, -0.2, 0.0]), psi=0.3, amplitude=theta + 0.1)
    x_seq = (torch.randint(-32, 64, (1 if static else 4, 5, 3), generator=generator) / 16).to(dtype).requires_grad_()
    for call, used in (("forward", [node.v_threshold, node.shift, node.psi]), ("decoded", list(node.parameters()))):
        x = x_seq.expand(4, 5, 3) if call == "forward" else x_seq[0]
        outputs = both(node, x, call)
        grad = torch.randn(outputs[0].shape, generator=generator).to(dtype)
        expected, actual = (torch.autograd.grad(y, [x_seq, *used], grad) for y in outputs)
        assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))
        assert actual[0].abs().sum() > 0


def test_gradients_of_the_input_alone_and_of_the_parameters_alone() -> None:
    x_seq = torch.randn(4, 5, 3, generator=torch.Generator().manual_seed(0))
    frozen = sjpc.ParallelConversionNode(4, 0.7).requires_grad_(False)
    (of_x,) = (torch.autograd.grad(both(frozen, x)[1].sum(), x) for x in [x_seq.clone().requires_grad_()])
    assert of_x[0].shape == x_seq.shape
    node = sjpc.ParallelConversionNode(4, 0.7)
    expected, actual = (torch.autograd.grad(y.sum(), node.v_threshold) for y in both(node, x_seq))
    assert torch.equal(*expected, *actual)
    with torch.no_grad():
        assert not node(x_seq).requires_grad


def folded(kind: str, folds: tuple[bool, bool], **options: object) -> SpikingNode:
    """A node of 8 channels of which the first flag folds the input, the second the output."""
    generator = torch.Generator().manual_seed(0)
    theta, shift, psi = (torch.rand(8, generator=generator) + low for low in (0.5, -0.5, 0.0))
    node = KINDS[kind](4, theta, shift=shift, psi=psi, **options)
    node.folded_input, node.folded_output = folds
    return node


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("folds", FOLDS)
@pytest.mark.parametrize("kind", KINDS)
def test_folded_nodes(kind: str, folds: tuple[bool, bool], dtype: torch.dtype) -> None:
    x_seq = (torch.randint(-64, 192, (4, 3, 8, 5), generator=torch.Generator().manual_seed(1)) / 8).to(dtype)
    node = folded(kind, folds, amplitude=torch.linspace(0.5, 2, 8)).requires_grad_(False)
    for x in (x_seq, x_seq[:1].expand(4, -1, -1, -1)):
        assert_same(node, x)
        with torch.no_grad():
            expected, actual = both(node, x, "spikes")
        assert actual.dtype == torch.int8 and torch.equal(actual, expected)
    if folds[0]:
        level = x_seq[0].float().floor().clamp(node.min_level, node.code.max_level(4))
        assert torch.equal(node.level(x_seq[0]).float(), level)
        assert not folds[1] or torch.equal(both(node, x_seq[0], "decoded")[1].float(), level)


@pytest.mark.parametrize("with_amplitude", [True, False])
@pytest.mark.parametrize("static", [True, False])
@pytest.mark.parametrize("folds", FOLDS)
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_folded_nodes(kind: str, folds: tuple[bool, bool], static: bool, with_amplitude: bool) -> None:
    """Parameters that have become part of weights are no part of the kernel's graph either."""
    node = folded(kind, folds, **({"amplitude": torch.linspace(0.5, 2, 8)} if with_amplitude else {}))
    generator = torch.Generator().manual_seed(1)
    x_seq = (torch.randint(-16, 48, (1 if static else 4, 3, 8), generator=generator) / 8).requires_grad_()
    affine = [] if folds[0] else [node.v_threshold, node.shift, node.psi]
    worth = [] if folds[1] else [node.amplitude if with_amplitude else node.v_threshold]
    for call, acting in (("forward", affine), ("decoded", [*affine, *worth])):
        outputs = both(node, x_seq.expand(4, 3, 8) if call == "forward" else x_seq[0], call)
        grad = torch.randn(outputs[0].shape, generator=generator)
        wanted = [x_seq, *node.parameters()]
        expected, actual = (torch.autograd.grad(y, wanted, grad, allow_unused=True) for y in outputs)
        for tensor, a, b in zip(wanted, expected, actual, strict=True):
            acts = tensor is x_seq or any(tensor is parameter for parameter in acting)
            assert (a is not None) == (b is not None) == acts
            assert not acts or torch.equal(a, b)
        assert actual[0].abs().sum() > 0


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8])
def test_trains_of_integers(dtype: torch.dtype) -> None:
    x_seq = torch.randn(6, 3, 8, generator=torch.Generator().manual_seed(0)) * 20
    kinds = [kind for kind in KINDS if dtype == torch.int8 or kind in ("sorted", "binary")]
    for kind, stored in itertools.product(kinds, (torch.float32, torch.float16)):
        node, x = KINDS[kind](6), x_seq.to(stored)
        node.backend = "cupy"
        spikes = spike_train(node, x, node._torch_train, dtype)
        assert spikes.dtype == dtype and not spikes.requires_grad
        assert torch.equal(spikes.to(stored), node(x))


def test_currents_in_levels() -> None:
    """Without v_threshold the kernel quantises what it reads: k = clip(floor(mean x), 0, k_max), bare levels out."""
    T, x_seq = 4, torch.randint(-16, 96, (4, 3, 8), generator=torch.Generator().manual_seed(0)) / 8
    for kind in KINDS:
        node, out = KINDS[kind](T).requires_grad_(False), torch.empty(3, 8)
        fused._launch("decoded_level", node, x_seq, out, affine=None)
        assert torch.equal(out, x_seq.mean(0).floor().clamp(node.min_level, node.code.max_level(T)))


@pytest.mark.parametrize("dtype", [torch.int64, torch.complex64, torch.bool])
def test_dtypes_that_are_refused(dtype: torch.dtype) -> None:
    node = sjpc.ParallelConversionNode(4, backend="cupy")
    with pytest.raises(sjpc.DataError, match=r"needs a dense tensor of floating-point numbers.*got torch"):
        node(torch.zeros(4, 3).to(dtype))


def test_errors_of_the_torch_form_stay() -> None:
    with pytest.raises(sjpc.DataError, match="3 channels"):
        sjpc.ParallelConversionNode(4, torch.ones(3), backend="cupy")(torch.zeros(4, 2, 5))
    with pytest.raises(sjpc.DataError, match=r"needs an input \[T=4"):
        sjpc.ParallelConversionNode(4, backend="cupy")(torch.zeros(3, 2))
