"""SpikePack and TSA nodes: closed forms against the serial dynamics, ranges, gradients."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import sj_parallel_conversion as sjpc
from sj_parallel_conversion.functional import CODES, decode, encode

NODES = [sjpc.SpikePackNode, sjpc.TSANode]


@given(
    T=st.integers(1, 12), psi=st.sampled_from([None, 0.0, 0.5, 0.25]), theta=st.sampled_from([0.5, 1.0, 1.5]),
    seed=st.integers(0, 2**20),
)  # fmt: skip
def test_spikepack_closed_form_is_the_paper_s_loop(T: int, psi: float | None, theta: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    charge = torch.randint(-4 * 2**T, 8 * 2**T, (200,), generator=generator) / 4 * theta  # quarters: many ties
    node = sjpc.SpikePackNode(T, theta, psi=psi)
    v, train = charge + (theta / 2 if psi is None else psi), []
    for t in range(1, T + 1):
        q = 2 ** (T - t)
        train.append((v - theta * q >= 0).float())
        v = v - theta * q * train[-1]
    x_seq = charge.expand(T, -1)
    assert torch.equal(node(x_seq), torch.stack(train))
    assert torch.equal(sjpc.SpikePackNode(T, theta, psi=psi, serial=True)(x_seq), torch.stack(train))


@pytest.mark.parametrize("tau", [1.5, 1.8, 3.0])
@pytest.mark.parametrize("T", [1, 3, 6])
def test_other_bases_run_the_loop(tau: float, T: int) -> None:
    node = sjpc.SpikePackNode(T, 0.7, psi=0.0, tau=tau)
    x = torch.rand(500) * 0.7 * tau**T
    spikes = node(x.expand(T, -1))
    v = x / 0.7
    for t in range(T):
        q = tau ** (T - 1 - t)
        assert torch.equal(spikes[t], (v >= q).float())
        v = v - q * spikes[t]
    torch.testing.assert_close(node.decode(spikes), node.decoded(x))


@pytest.mark.parametrize("node_type", NODES)
def test_round_trip_and_amplitudes(node_type: type) -> None:
    node = node_type(5, torch.tensor([0.5, 2.0]), shift=torch.tensor([0.1, -0.2]), amplitude=torch.tensor([0.6, 1.9]))
    x_seq = torch.randn(5, 7, 2, 3) * 10
    spikes = node(x_seq)
    assert set(spikes.unique().tolist()) <= set(map(float, node.code.symbols))
    torch.testing.assert_close(node.amplify(spikes).mean(0), node.decode(spikes))
    constant = x_seq[:1].expand(5, -1, -1, -1)
    assert torch.equal(node.decode(node(constant)), node.decoded(x_seq[0]))


@pytest.mark.parametrize("T", [2, 4, 6, 8])
def test_serial_tsa_is_within_one_level(T: int) -> None:
    """The input as a layer sends it: a random sum of spike trains of the same code, in the range of the code."""
    torch.manual_seed(0)
    code = CODES["signed_digit"]
    levels = torch.randint(0, 2**T, (3, 5000)).float()
    weights = torch.rand(3, 5000) / 3
    currents = (encode(levels, code, T) * weights).sum(1) * torch.tensor(code.weights(T)).view(-1, 1) * T
    closed, serial = sjpc.TSANode(T)(currents), sjpc.TSANode(T, serial=True)(currents)
    difference = (decode(closed, code) - decode(serial, code)).abs()
    assert difference.max() <= 1
    assert (difference > 0).float().mean() < 0.05
    eager = sjpc.TSANode(T, serial=True, silent_steps=0)(currents)
    assert (decode(eager, code) - decode(closed, code)).abs().mean() > difference.mean()


def test_signed_outputs() -> None:
    x = torch.linspace(-20, 20, 81)
    node = sjpc.TSANode(4, 1.0, signed=True)
    level = decode(node(x.expand(4, -1)), node.code)
    assert torch.equal(level, (x + 0.5).floor().clamp(-15, 15))
    assert decode(sjpc.TSANode(4, 1.0)(x.expand(4, -1)), node.code).min() == 0


@pytest.mark.parametrize("node_type", [sjpc.ParallelConversionNode, *NODES])
@given(T=st.integers(1, 10), seed=st.integers(0, 2**20))
def test_signed_levels_in_every_code(node_type: type, T: int, seed: int) -> None:
    """A pair of trains: the level's size in the code, with the sign on every digit; packed and spikes agree."""
    node, plain = node_type(T, 0.7, signed=True), node_type(T, 0.7)
    k_max = node.code.max_level(T)
    x = torch.randn(200, generator=torch.Generator().manual_seed(seed)) * k_max * node.value(torch.ones(()))
    k = node.level(x)
    assert torch.equal(k, ((node._total(x) + node.v_threshold / 2) / node.v_threshold).floor().clamp(-k_max, k_max))
    train = node(x.expand(T, -1))
    assert torch.equal(decode(train, node.code), k) and torch.equal(node.decode(train), node.decoded(x))
    assert torch.equal(train, encode(k.abs(), node.code, T) * k.sign())
    positive = x.clamp(min=0)
    assert torch.equal(node(positive.expand(T, -1)), plain(positive.expand(T, -1)))
    if node_type is sjpc.SpikePackNode:
        node.serial = True
        assert torch.equal(node(x.expand(T, -1)), train)


@pytest.mark.parametrize("node_type", [sjpc.ParallelConversionNode, *NODES])
def test_gradient_of_signed_levels(node_type: type) -> None:
    node = node_type(4, 0.5, signed=True)
    x = torch.tensor([-900.0, -0.3, 0.0, 0.2, 900.0], requires_grad=True)
    node.amplify(node(x.expand(4, -1))).mean(0).sum().backward()
    torch.testing.assert_close(x.grad, torch.tensor([0.0, 1.0, 1.0, 1.0, 0.0]))


@pytest.mark.parametrize("node_type", [*NODES, lambda T, theta: sjpc.SpikePackNode(T, theta, tau=1.5)])
@pytest.mark.parametrize("serial", [False, True])
def test_gradient_is_that_of_the_clipped_line(node_type: type, serial: bool) -> None:
    node = node_type(4, 0.5)
    node.serial = serial
    x = torch.tensor([-3.0, 0.3, 2.0, 900.0], requires_grad=True)
    node.amplify(node(x.expand(4, -1))).mean(0).sum().backward()
    torch.testing.assert_close(x.grad, torch.tensor([0.0, 1.0, 1.0, 0.0]))


@pytest.mark.parametrize("node_type", NODES)
def test_pickle_and_deepcopy(node_type: type) -> None:
    node, x_seq = node_type(3, torch.tensor([0.5, 1.0])), torch.randn(3, 4, 2)
    for twin in (pickle.loads(pickle.dumps(node)), copy.deepcopy(node)):
        assert torch.equal(twin(x_seq), node(x_seq))


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: sjpc.SpikePackNode(25), "T=25"),
        (lambda: sjpc.SpikePackNode(4, tau=1.0), "tau"),
        (lambda: sjpc.SpikePackNode(4, tau="2"), "tau"),
        (lambda: sjpc.SpikePackNode(4, tau=1.5, signed=True), "tau=2"),
        (lambda: sjpc.TSANode(4, silent_steps=-1), "silent_steps"),
        (lambda: sjpc.TSANode(0), "T"),
    ],
)
def test_bad_arguments(make: object, named: str) -> None:
    with pytest.raises(sjpc.ConfigError, match=named):
        make()


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("T", [1, 2, 4, 6])
def test_serial_tsa_that_has_seen_all_makes_the_level_of_the_closed_form(T: int, signed: bool) -> None:
    constants = {"shift": torch.tensor([0.3, -0.45]), "psi": torch.tensor([0.1, 0.33])}
    closed, serial = (sjpc.TSANode(T, 0.5, signed=signed, serial=s, silent_steps=T, **constants) for s in (False, True))
    x_seq = (torch.rand(400, 2) * 0.5 * (2**T - 1)).expand(T, -1, -1)
    expected = decode(closed(x_seq), closed.code)
    assert torch.equal(decode(serial(serial.constant(x_seq[0])), serial.code), expected)
    assert expected.unique().numel() > T
    folded = copy.deepcopy(serial)
    folded.folded_input = True  # the layer before holds threshold, psi and shift; half a level rounds
    total = torch.rand(400, 2) * (2**T - 1)
    levels = decode(folded(folded.constant(total + 0.5)), folded.code)
    assert torch.equal(levels, (total + 0.5).floor().clamp(max=levels.max()))


@pytest.mark.parametrize("node_type", NODES)
def test_constant_input(node_type: type) -> None:
    x = torch.rand(3, 2)
    for serial in (False, True):
        given_x = node_type(5, serial=serial).constant(x)
        assert given_x.shape == (5, 3, 2)
        torch.testing.assert_close(given_x.mean(0), x)
    assert node_type(5).constant(x).data_ptr() == x.data_ptr()  # no copy
