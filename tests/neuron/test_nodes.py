"""The parallel neuron against the paper's matrix form: sorted, lossless, whatever the distribution over time."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from spikingjelly.activation_based import functional, neuron
from torch import nn

import sj_parallel_conversion as sjpc
from sj_parallel_conversion import ParallelConversionNode

DTYPES = [torch.float64, torch.float32, torch.bfloat16]
STEPS = [1, 2, 3, 4, 5, 8, 16, 31, 64]


def matrix_form(x_seq: torch.Tensor, theta, psi, shift=0.0) -> torch.Tensor:
    """
    Eq. s_t = H((Lambda_post Lambda_pre I)_t + b_t - theta) of the ICML 2025 paper, as it stands there, in float64.
    ``theta``, ``psi`` and ``shift`` broadcast over ``[N, ...]``.
    """
    T = len(x_seq)
    t = torch.arange(1, T + 1, dtype=torch.float64)
    pre = torch.full((T, T), 1 / T, dtype=torch.float64)
    post = (T / (t * (T - t + 1))).unsqueeze(1) * torch.ones(T, T, dtype=torch.float64).tril()
    charge = torch.tensordot(post @ pre, x_seq.double(), dims=1)
    remaining = (T - t + 1).view(-1, *[1] * (x_seq.dim() - 1))
    bias = (T * torch.as_tensor(shift).double() + torch.as_tensor(psi).double()) / remaining
    return (charge + bias >= torch.as_tensor(theta).double()).double()


def distance_to_tie(x_seq: torch.Tensor, theta, psi, shift=0.0) -> torch.Tensor:
    line = (x_seq.double().sum(0) + len(x_seq) * shift + psi) / theta
    return (line - line.round()).abs()


def parallel_node(T: int, **arguments: object) -> ParallelConversionNode:
    return ParallelConversionNode(T, **arguments).requires_grad_(False)


@pytest.mark.parametrize("dtype", DTYPES)
@given(data=st.data())
def test_equals_the_matrix_form(dtype: torch.dtype, data: st.DataObject) -> None:
    T = data.draw(st.integers(1, 64))
    channels = data.draw(st.integers(1, 4))
    shape = (T, data.draw(st.integers(1, 3)), channels, *data.draw(st.lists(st.integers(1, 3), max_size=3)))
    seed = data.draw(st.integers(0, 2**20))
    generator = torch.Generator().manual_seed(seed)
    x_seq = (torch.randn(shape, generator=generator) * 2 + 0.5).to(dtype)
    size = (channels,) if data.draw(st.booleans()) else ()
    theta, psi, shift = (torch.rand(size, generator=generator) * a + b for a, b in ((4, 0.2), (1, 0), (1, -0.5)))
    node = parallel_node(T, v_threshold=theta, psi=psi, shift=shift)
    along = [p.double().view(-1, *[1] * (len(shape) - 3)) if size else p.double() for p in (theta, psi, shift)]

    spikes = node(x_seq)
    assert spikes.dtype == dtype and spikes.shape == x_seq.shape
    assert ((spikes == 0) | (spikes == 1)).all()
    assert (spikes[1:] >= spikes[:-1]).all()
    clear = distance_to_tie(x_seq, *along) > 1e-3  # float32 may decide a near-tie the other way
    assert (spikes.double() == matrix_form(x_seq, *along)).all(0)[clear].all()


def exact_matrix_form(currents: list[float], theta: Fraction, psi: Fraction) -> list[int]:
    """The same equation for one neuron in rational arithmetic, so that ties are ties."""
    T = len(currents)
    uniform = [sum(map(Fraction, currents)) / T] * T  # Lambda_pre
    charges = [Fraction(T, t * (T - t + 1)) * sum(uniform[:t]) for t in range(1, T + 1)]  # Lambda_post
    return [int(charge + psi / (T - t) >= theta) for t, charge in enumerate(charges)]


@pytest.mark.parametrize("T", [1, 2, 3, 4, 5, 8, 16, 64])
@pytest.mark.parametrize("dtype", DTYPES)
def test_ties_of_the_matrix_form(T: int, dtype: torch.dtype) -> None:
    """Sums that are exact in every dtype, half of them on a tie."""
    theta, totals = 2.0, range(-2 * T, 4 * T)
    x_seq = torch.zeros(T, len(totals), 1, dtype=dtype)
    x_seq[T // 2, :, 0] = torch.tensor(totals).to(dtype)  # all of it in one step
    spikes = parallel_node(T, v_threshold=theta)(x_seq).squeeze(2)
    for i in range(len(totals)):
        currents = x_seq[:, i, 0].tolist()
        assert spikes[:, i].tolist() == exact_matrix_form(currents, Fraction(theta), Fraction(theta) / 2)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channel_wise", [False, True])
@given(T=st.sampled_from(STEPS), seed=st.integers(0, 2**20))
def test_counts_equal_the_qcfs_level_exactly(dtype: torch.dtype, channel_wise: bool, T: int, seed: int) -> None:
    """Half of the inputs are as near to a tie as floats come; the same at each step, expanded or copied."""
    generator = torch.Generator().manual_seed(seed)
    theta = torch.rand(3 if channel_wise else (), generator=generator) * 5 + 0.1
    x = torch.randn(2, 3, 5, generator=generator) * 3
    ties = (torch.randint(-1, T + 2, x.shape, generator=generator) - 0.5) / T
    x = torch.where(torch.rand(x.shape, generator=generator) < 0.5, x, ties * theta.view(-1, 1)).to(dtype)
    qcfs, node = sjpc.QCFS(T, theta).requires_grad_(False), parallel_node(T, v_threshold=theta)
    for x_seq in (x.expand(T, *x.shape), x.unsqueeze(0).repeat(T, 1, 1, 1)):
        spikes = node(x_seq)
        assert torch.equal(node.decode(spikes), qcfs(x))
        assert torch.equal(spikes.sum(0, dtype=torch.float64), node.level(x).double())
    assert torch.equal(node.decoded(x), qcfs(x))


@given(T=st.sampled_from(STEPS), seed=st.integers(0, 2**20))
def test_lossless_for_any_distribution_over_time(T: int, seed: int) -> None:
    """Theorem 4.1: only the sum counts. Dyadic currents, so that the sums are exact and ties stay ties."""
    generator = torch.Generator().manual_seed(seed)
    x_seq = torch.randint(-64, 65, (T, 2, 3), generator=generator) / 16
    node = parallel_node(T, v_threshold=torch.tensor([0.5, 1.0, 4.0]))
    total = x_seq.sum(0)
    expected = torch.clip(torch.floor((total + node.v_threshold / 2) / node.v_threshold), 0, T)
    at_once = torch.zeros_like(x_seq)
    at_once[-1] = total
    shuffled = x_seq[torch.randperm(T, generator=generator)]
    for form in (x_seq, x_seq.flip(0), shuffled, at_once):
        spikes = node(form)
        assert torch.equal(spikes.sum(0), expected)
        assert torch.equal(spikes, node(x_seq))


@pytest.mark.parametrize("T", STEPS)
def test_decodes_to_da_qcfs(T: int) -> None:
    generator = torch.Generator().manual_seed(T)
    theta, shift, phi, psi = (torch.rand(6, generator=generator) for _ in range(4))
    theta += 0.5
    x = torch.randn(4, 6, 3, 3, generator=generator)
    act = sjpc.DAQCFS(T, theta, shift, phi, psi).requires_grad_(False)
    node = parallel_node(T, v_threshold=theta, shift=shift, amplitude=theta + phi, psi=psi)
    for x_seq in (x.expand(T, *x.shape), x.unsqueeze(0).repeat(T, 1, 1, 1, 1)):
        assert torch.equal(node.decode(node(x_seq)), act(x))
        torch.testing.assert_close(node.amplify(node(x_seq)).mean(0), act(x))


@pytest.mark.parametrize("dtype", DTYPES)
def test_plain_mean_of_amplified_spikes_decodes(dtype: torch.dtype) -> None:
    x = torch.linspace(-1, 5, 30).view(5, 6).to(dtype)
    node = parallel_node(8, v_threshold=4.0)
    amplified = node.amplify(node(x.expand(8, 5, 6)))
    assert amplified.dtype == dtype
    assert set(amplified.unique().tolist()) == {0.0, 4.0}
    assert torch.equal(amplified.float().mean(0).to(dtype), node.decoded(x))


@pytest.mark.parametrize("shape", [(0, 3), (2, 3, 0)])
def test_empty_batches(shape: tuple[int, ...]) -> None:
    node = parallel_node(4)
    assert node(torch.zeros(4, *shape)).shape == (4, *shape)
    assert node.decode(node(torch.zeros(4, *shape))).shape == shape


@pytest.mark.parametrize("T", [1, 2, 8])
@pytest.mark.parametrize("constant", [True, False])
def test_straight_through_gradients(T: int, constant: bool) -> None:
    """The mean output has the gradients of clip(mean input + shift, 0, theta), up to the rounding to levels."""
    generator = torch.Generator().manual_seed(0)
    theta = torch.tensor([0.6, 1.1, 2.0]).double()
    node = ParallelConversionNode(T, theta, shift=torch.tensor([0.1, -0.2, 0.05]).double())
    x_seq = torch.randn((1 if constant else T), 7, 3, generator=generator).double().requires_grad_()
    node.amplify(node(x_seq.expand(T, 7, 3))).mean(0).sum().backward()

    x = x_seq.detach().mean(0) + node.shift.detach()
    line = (x * T + theta / 2) / theta
    inside = ((line > 0) & (line < T)).double()
    expected = inside / (1 if constant else T)
    torch.testing.assert_close(x_seq.grad, expected.expand_as(x_seq))
    torch.testing.assert_close(node.shift.grad, inside.sum(0))
    level, per_theta = node.level(x_seq.detach().mean(0)).detach(), inside * -(x * T) / theta.square()
    torch.testing.assert_close(node.v_threshold.grad, (level / T + theta / T * per_theta).sum(0))


def test_packed_and_spikes_have_the_same_gradients() -> None:
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(1)).requires_grad_()
    node = ParallelConversionNode(4, torch.tensor([0.5, 1.0, 2.0]), shift=0.1, amplitude=1.2, psi=0.3)
    leaves = [x, *node.parameters()]
    packed = torch.autograd.grad(node.decoded(x).square().sum(), leaves)
    spikes = torch.autograd.grad(node.decode(node(x.expand(4, 5, 3))).square().sum(), leaves)
    for a, b in zip(packed, spikes, strict=True):
        torch.testing.assert_close(a, b)


def test_inputs_are_not_written_to() -> None:
    x_seq = torch.randn(4, 2, 3)
    before = x_seq.clone()
    parallel_node(4)(x_seq)
    parallel_node(4, shift=0.5).decoded(x_seq[0])
    assert torch.equal(x_seq, before)


@pytest.mark.parametrize("make", [ParallelConversionNode, *([neuron.PSN] if hasattr(neuron, "PSN") else [])])
def test_is_a_multi_step_module_like_spikingjellys_psn(make: type[nn.Module]) -> None:
    net = nn.Sequential(nn.Identity(), make(4))
    for mode in ("s", "m", "s"):
        functional.set_step_mode(net, mode)
    functional.reset_net(net)
    with pytest.raises(ValueError):
        net[1].step_mode = "s"
    assert net(torch.ones(4, 1)).shape == (4, 1)


@pytest.mark.parametrize("folded", [False, True])
@pytest.mark.parametrize("overwrite", [False, True])
def test_levels_in_bytes(folded: bool, overwrite: bool) -> None:
    node = ParallelConversionNode(200, torch.tensor([0.5, 2.0, 1.0]), shift=0.01)
    node.folded_input = folded
    x = torch.randn(4, 3, 50, generator=torch.Generator().manual_seed(0)) * (150 if folded else 1)
    given, expected = x.clone(), node.level(x)
    found = node.level_bytes(given, overwrite)
    assert found.dtype == torch.uint8 and torch.equal(found.float(), expected)
    assert torch.equal(given, x) or (folded and overwrite)
    with pytest.raises(sjpc.DataError):
        node.level_bytes(x.int())
