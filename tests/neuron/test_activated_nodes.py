"""Neurons that apply an activation and emit signed levels: the equations, against a plain reference in float64."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import sj_parallel_conversion as sjpc
from sj_parallel_conversion.functional import CODES, decode, encode

NODES = [sjpc.ParallelConversionNode, sjpc.SpikePackNode, sjpc.TSANode]
ACTIVATIONS = {
    "identity": lambda: None, "gelu": nn.GELU, "silu": nn.SiLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid,
    "hardtanh": nn.Hardtanh, "prelu": lambda: nn.PReLU(3, 0.2), "softplus": nn.Softplus,
}  # fmt: skip


def reference(x: Tensor, node: sjpc.ParallelConversionNode) -> Tensor:
    """clip(floor((n f(x + shift) + theta/2) / theta), -kmax or 0, kmax) for ``[N, C]``, in float64."""
    shift, theta = node.shift.double(), node.v_threshold.double()
    u = x.double() + shift
    u = u if node.activation is None else copy.deepcopy(node.activation).double()(u)
    n, top = (node.T, node.T) if node.code.name == "sorted" else (1, 2**node.T - 1)
    return ((u * n + theta / 2) / theta).floor().clamp(-top if node.signed else 0, top)


@pytest.mark.parametrize("node_type", NODES)
@pytest.mark.parametrize("name", ACTIVATIONS)
@given(T=st.integers(1, 9), signed=st.booleans(), seed=st.integers(0, 2**20))
@torch.no_grad()
def test_level_is_the_equation(node_type: type, name: str, T: int, signed: bool, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(40, 3, generator=generator, dtype=torch.float64) * 2
    theta, shift = torch.rand(3, generator=generator) + 0.1, torch.randn(3, generator=generator) / 4
    theta = theta if node_type is sjpc.ParallelConversionNode else theta * 3 / 2**T
    node = node_type(T, theta, shift=shift, signed=signed, activation=ACTIVATIONS[name]()).double()
    expected = reference(x, node)
    for x_seq in (x.expand(T, *x.shape), x.unsqueeze(0).repeat(T, 1, 1)):
        spikes = node(x_seq)
        assert set(spikes.unique().tolist()) <= set(map(float, node.symbols))
        assert torch.equal(decode(spikes, node.code), expected)
        assert torch.equal(node.decode(spikes), node.decoded(x))
        torch.testing.assert_close(node.amplify(spikes).mean(0), node.decoded(x))
    unit = theta.double() / (T if node.code.name == "sorted" else 1)
    torch.testing.assert_close(node.decoded(x), expected * unit)


@pytest.mark.parametrize("node_type", NODES)
@torch.no_grad()
def test_only_the_mean_over_time_counts(node_type: type) -> None:
    """f is applied to the mean, not to the steps."""
    node = node_type(4, 0.25, signed=True, activation=nn.Tanh())
    x_seq = torch.randint(-32, 33, (4, 50, 3), generator=torch.Generator().manual_seed(0)) / 16
    for form in (x_seq, x_seq.flip(0), x_seq.sum(0) * torch.tensor([0, 0, 0, 1.0]).view(4, 1, 1)):
        assert torch.equal(node(form), node(x_seq.mean(0).expand(4, 50, 3)))


@pytest.mark.parametrize("code", CODES.values(), ids=CODES)
@given(T=st.integers(1, 10))
def test_signed_levels_round_trip(code: object, T: int) -> None:
    top = int(code.max_level(T))
    levels = torch.arange(-top, top + 1).float()
    train = encode(levels, code, T, signed=True)
    assert torch.equal(decode(train, code), levels)
    assert torch.equal(train, -train.flip(1))
    if -1 not in code.symbols:  # a pair of trains: of one sign each
        assert torch.equal(train, encode(levels.abs(), code, T) * levels.sign())


@pytest.mark.parametrize("node_type", NODES)
@pytest.mark.parametrize("T", [1, 3])
@pytest.mark.parametrize("activation", [None, nn.PReLU(), nn.Softplus()])
@given(shape=st.lists(st.integers(1, 3), min_size=2, max_size=5), data=st.data())
@torch.no_grad()
def test_decoded_trains_lie_in_memory_as_packed_values(
    node_type: type, T: int, activation: nn.Module | None, shape: list[int], data: st.DataObject
) -> None:
    """To the stride of an axis of size 1: convolutions choose their kernels, and so their rounding, by it."""
    order = data.draw(st.permutations(range(len(shape))))
    x = torch.randn(shape).permute(order)
    x = x[:, :1].expand_as(x) if data.draw(st.booleans()) else x
    node = node_type(T, 0.3, signed=True, activation=activation)
    assert node.decode(node(x.expand(T, *x.shape))).stride() == node.decoded(x).stride()


@pytest.mark.parametrize("T", [1, 3, 8])
@torch.no_grad()
def test_serial_spikepack_emits_the_same_pair_of_trains(T: int) -> None:
    x = torch.linspace(-2 * 2**T, 2 * 2**T, 16 * 2**T + 1)
    closed, serial = (sjpc.SpikePackNode(T, 1.0, signed=True, serial=s)(x.expand(T, -1)) for s in (False, True))
    assert torch.equal(closed, serial)


@pytest.mark.parametrize("node_type", NODES)
@torch.no_grad()
def test_half_precision_computes_in_float32(node_type: type) -> None:
    node = node_type(8, 0.01, signed=True, activation=nn.PReLU(3, 0.1)).bfloat16()
    x = torch.randn(20, 3).bfloat16()
    wide = copy.deepcopy(node).float()
    assert torch.equal(node.level(x), wide.level(x.float()))
    assert node.decoded(x).dtype == torch.bfloat16


@pytest.mark.parametrize("node_type", NODES)
def test_gradient_goes_through_the_activation(node_type: type) -> None:
    theta = 1.0 if node_type is sjpc.ParallelConversionNode else 0.01
    node = node_type(4, theta, signed=True, activation=nn.Tanh())
    x = torch.tensor([-0.1, 0.05, 0.12], requires_grad=True)
    node.decoded(x).sum().backward()
    torch.testing.assert_close(x.grad, 1 - torch.tanh(x.detach()) ** 2, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("node_type", NODES)
@torch.no_grad()
def test_pickle_deepcopy_and_state_dict(node_type: type) -> None:
    node = node_type(3, torch.tensor([0.5, 1.0]), signed=True, activation=nn.PReLU(2, 0.3))
    x_seq = torch.randn(3, 4, 2)
    for twin in (pickle.loads(pickle.dumps(node)), copy.deepcopy(node)):
        assert torch.equal(twin(x_seq), node(x_seq))
    other = node_type(3, torch.ones(2), signed=True, activation=nn.PReLU(2))
    other.load_state_dict(node.state_dict())
    assert torch.equal(other(x_seq), node(x_seq))


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: sjpc.ParallelConversionNode(4, signed=1), "signed"),
        (lambda: sjpc.ParallelConversionNode(4, activation=torch.tanh), "activation"),
        (lambda: sjpc.TSANode(4, activation=nn.GELU), "activation"),
        (lambda: sjpc.TSANode(4, serial=True, activation=nn.GELU()), "serial form"),
        (lambda: sjpc.SpikePackNode(4, tau=1.5, signed=True), "tau=1.5"),
    ],
)
def test_refused(make: object, named: str) -> None:
    with pytest.raises(sjpc.ConfigError, match=named):
        make()


class Rounded(nn.Module):
    """A quantiser as users write them: values of 1.5 k / 4, with a shift of 0.1 that is not half a level."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.clamp(torch.floor((x + 0.1) / 1.5 * 4) / 4, 0, 1) * 1.5


def test_a_formula_gives_the_level_whatever_psi_is() -> None:
    node = sjpc.ParallelConversionNode(4, 1.5, psi=0.1).requires_grad_(False)
    node.formula = Rounded()
    x = torch.linspace(-1, 3, 300)
    assert torch.equal(node.level(x), (Rounded()(x) * 4 / 1.5).round())
    assert torch.equal(node.decoded(x), Rounded()(x))
    assert torch.equal(node.decode(node(x.expand(4, -1))), Rounded()(x))
    half_a_level_more = sjpc.ParallelConversionNode(4, 1.5, psi=0.1 + 1.5 / 2)
    half_a_level_more.formula = Rounded()
    assert torch.equal(half_a_level_more.level(x), node.level(x))


@pytest.mark.parametrize("node_type", NODES)
def test_the_activation_may_have_parameters_of_another_size(node_type: type) -> None:
    node = node_type(4, torch.ones(3), activation=nn.Sequential(nn.PReLU(), nn.LayerNorm(2)))
    assert node.v_threshold.shape == (3,)
