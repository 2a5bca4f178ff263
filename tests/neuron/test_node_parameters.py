"""The parameters of a neuron: what is refused, where channels lie, and what a checkpoint brings."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

import sj_parallel_conversion as sjpc
from sj_parallel_conversion import ParallelConversionNode


def parallel_node(T: int, **arguments: object) -> ParallelConversionNode:
    return ParallelConversionNode(T, **arguments).requires_grad_(False)


@pytest.mark.parametrize(
    ("shape", "channel_dim"),
    [((2, 3), 1), ((2, 3, 5), 1), ((2, 3, 5, 4), 1), ((2, 3, 2, 2, 2), 1), ((2, 5, 3), -1), ((2, 5, 3), 2)],
)
def test_channels_lie_where_channel_dim_says(shape: tuple[int, ...], channel_dim: int) -> None:
    x, theta = torch.randn(shape, generator=torch.Generator().manual_seed(0)), torch.tensor([0.5, 1.0, 2.0])
    node = parallel_node(4, v_threshold=theta, channel_dim=channel_dim)
    spikes = node(x.expand(4, *shape))
    for c in range(3):
        channel = x.select(channel_dim, c)
        alone = parallel_node(4, v_threshold=theta[c])(channel.expand(4, *channel.shape))
        for t in range(4):
            assert torch.equal(spikes[t].select(channel_dim, c), alone[t])


@pytest.mark.parametrize("shape", [(3, 2, 5), (5, 2), (), (2, 4, 4)])
def test_first_axis_must_be_T(shape: tuple[int, ...]) -> None:
    with pytest.raises(sjpc.DataError, match=r"ParallelConversionNode\(T=4\) needs an input \[T=4") as error:
        ParallelConversionNode(4)(torch.zeros(shape))
    assert str(list(shape)) in str(error.value)
    with pytest.raises(sjpc.DataError, match="needs an input"), torch.no_grad():
        ParallelConversionNode(4).spikes(torch.zeros(shape))


@pytest.mark.parametrize("shape", [(4, 2, 5), (4, 2), (4, 2, 5, 3)])
def test_wrong_number_of_channels(shape: tuple[int, ...]) -> None:
    with pytest.raises(sjpc.DataError, match="ParallelConversionNode has parameters for 3 channels") as error:
        ParallelConversionNode(4, torch.ones(3))(torch.zeros(shape))
    assert str(list(shape[1:])) in str(error.value)


@pytest.mark.parametrize("T", [0, -1, 2.5, True, "4", None])
def test_time_steps_that_are_refused(T: object) -> None:
    with pytest.raises(sjpc.ConfigError, match="integer >= 1"):
        ParallelConversionNode(T)


@pytest.mark.parametrize("name", ["v_threshold", "psi", "shift", "amplitude"])
@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), "one", torch.ones(2, 2), torch.ones(0), [[1.0]], object()]
)
def test_parameters_that_are_refused(name: str, value: object) -> None:
    with pytest.raises(sjpc.ConfigError, match=f"ParallelConversionNode: {name} must be"):
        ParallelConversionNode(4, **{name: value})


@pytest.mark.parametrize("value", [0.0, -1.0, torch.tensor([1.0, 0.0])])
def test_thresholds_must_be_positive(value: object) -> None:
    with pytest.raises(sjpc.ConfigError, match="v_threshold must be > 0"):
        ParallelConversionNode(4, value)


def test_parameters_have_their_own_storage() -> None:
    theta = torch.ones(3)
    node = ParallelConversionNode(4, theta)
    theta.fill_(9)
    assert node.v_threshold.tolist() == [1, 1, 1]


def test_integers_and_lists_are_taken_as_thresholds() -> None:
    assert ParallelConversionNode(4, 2).v_threshold.dtype == torch.float32
    assert ParallelConversionNode(4, [1, 2]).v_threshold.tolist() == [1.0, 2.0]


def test_pickle_deepcopy_and_state_dict() -> None:
    x_seq = torch.randn(4, 2, 3, generator=torch.Generator().manual_seed(0))
    node = ParallelConversionNode(4, torch.tensor([0.5, 1.0, 2.0]), psi=0.1, shift=0.2, amplitude=torch.ones(3))
    fresh = ParallelConversionNode(4, torch.ones(3), psi=0.0, shift=0.0, amplitude=torch.zeros(3))
    fresh.load_state_dict(node.state_dict())
    for other in (copy.deepcopy(node), pickle.loads(pickle.dumps(node)), fresh):
        assert torch.equal(other(x_seq), node(x_seq))
        assert repr(other) == repr(node)


def test_repr() -> None:
    assert repr(ParallelConversionNode(4)) == "ParallelConversionNode(T=4, channels=any, channel_dim=1)"


@pytest.mark.parametrize("have", [{}, {"psi": 0.3}, {"amplitude": torch.ones(3), "shift": torch.zeros(3)}], ids=str)
@pytest.mark.parametrize("saved", [{}, {"psi": 0.2}, {"amplitude": torch.ones(3) * 2, "shift": torch.ones(3)}], ids=str)
def test_a_checkpoint_brings_its_corrections(have: dict, saved: dict) -> None:
    node, other = (ParallelConversionNode(4, torch.ones(3), **options) for options in (have, saved))
    node.load_state_dict(other.state_dict())
    x_seq = torch.rand(4, 5, 3)
    assert torch.equal(node.decode(node(x_seq)), other.decode(other(x_seq)))
    assert node.state_dict().keys() == other.state_dict().keys()
    node.load_state_dict({}, strict=False)
    assert node.state_dict().keys() == other.state_dict().keys(), "nothing was saved, so nothing changes"
    with pytest.raises(RuntimeError, match="size mismatch for v_threshold"):
        node.load_state_dict(ParallelConversionNode(4, torch.ones(5)).state_dict())
