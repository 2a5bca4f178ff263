"""What nodes refuse."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import sj_parallel_conversion as sjpc
from sj_parallel_conversion import ParallelConversionNode, SpikePackNode, TSANode

NODES = [ParallelConversionNode, SpikePackNode, TSANode]
NO_NUMBERS = [True, torch.tensor(True), [True, False], 1j, torch.ones(2).to_sparse()]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"v_threshold": torch.ones(3), "psi": torch.ones(4)}, "different numbers of channels"),
        ({"channel_dim": "a"}, "channel_dim must be an integer"),
        ({"channel_dim": None}, "channel_dim must be an integer"),
        ({"signed": 1}, "signed must be True or False, got 1"),
    ],
)
def test_arguments_that_cannot_work(options: dict[str, object], words: str) -> None:
    with pytest.raises(sjpc.ConfigError, match=words):
        ParallelConversionNode(4, **options)


@pytest.mark.parametrize("node_type", NODES)
@pytest.mark.parametrize("name", ["v_threshold", "psi", "shift", "amplitude"])
@pytest.mark.parametrize("value", NO_NUMBERS, ids=str)
def test_parameters_that_are_no_numbers(node_type: type, name: str, value: object) -> None:
    with pytest.raises(sjpc.ConfigError, match=f"{node_type.__name__}: {name} must be a real number"):
        node_type(4, **{name: value})


@pytest.mark.parametrize("node_type", [SpikePackNode, TSANode])
@pytest.mark.parametrize("value", [1, "yes", None, torch.tensor(True)], ids=str)
def test_serial_is_a_flag(node_type: type, value: object) -> None:
    with pytest.raises(sjpc.ConfigError, match=f"{node_type.__name__}: serial must be True or False"):
        node_type(4, serial=value)
    node = node_type(4, serial=True)
    with pytest.raises(sjpc.ConfigError, match=f"{node_type.__name__}: serial must be True or False"):
        node.serial = value
    assert node.serial is True


def folded(node: sjpc.neuron.SpikingNode) -> sjpc.neuron.SpikingNode:
    """The node behind a layer that holds its threshold, shift and initial charge."""
    node.folded_input = True
    return node


@pytest.mark.parametrize("amplitude", [None, 1.2])
@pytest.mark.parametrize("folded_input", [False, True])
@pytest.mark.parametrize("folded_output", [False, True])
def test_what_folding_makes_ineffective_asks_for_no_gradient(
    folded_input: bool, folded_output: bool, amplitude: float | None
) -> None:
    node = TSANode(4, 1.5, psi=0.3, amplitude=amplitude)
    node.folded_input, node.folded_output = folded_input, folded_output
    node.freeze_folded()
    node.decoded(torch.rand(3, requires_grad=True)).sum().backward()
    effective = {name for name, p in node.named_parameters() if p.grad is not None}
    assert {name for name, p in node.named_parameters() if p.requires_grad} == effective


def test_serial_needs_no_activation_at_any_time() -> None:
    node = TSANode(4, activation=nn.SiLU())
    with pytest.raises(sjpc.ConfigError, match="cannot apply an activation"):
        node.serial = True
    assert not node.serial


@pytest.mark.parametrize("value", [-1, 5, 1.0, "1", True, None])
def test_silent_steps(value: object) -> None:
    with pytest.raises(sjpc.ConfigError, match="silent_steps must be an integer from 0 to T=4"):
        TSANode(4, silent_steps=value)
    node = TSANode(4)
    with pytest.raises(sjpc.ConfigError, match="silent_steps"):
        node.silent_steps = value
    assert node.silent_steps == 1


@pytest.mark.parametrize(("T", "tau"), [(4, 1e30), (24, 3.0), (4, float("inf")), (4, True)])
def test_bases_that_float32_cannot_count_in(T: int, tau: float) -> None:
    with pytest.raises(sjpc.ConfigError, match="SpikePackNode: tau"):
        SpikePackNode(T, tau=tau)


@pytest.mark.parametrize("value", [1, "yes", None])
def test_packed_is_a_flag(value: object) -> None:
    with pytest.raises(sjpc.ConfigError, match="packed must be True or False"):
        sjpc.SpikingActivation(TSANode(4), packed=value)
    act = sjpc.SpikingActivation(TSANode(4), packed=True)
    with pytest.raises(sjpc.ConfigError, match="packed must be True or False"):
        act.packed = value
    assert act.packed is True


def test_what_stands_where_nothing_is_given() -> None:
    assert sjpc.SpikingActivation(TSANode(4)).packed is False
    assert all(node_type(4).closed_form for node_type in (sjpc.ParallelConversionNode, SpikePackNode, TSANode))
    assert not any(node_type(4, serial=True).closed_form for node_type in (SpikePackNode, TSANode))
    assert TSANode(4).supported_backends == ("torch", "cupy")
    assert TSANode(4, serial=True).supported_backends == ("torch",)
    for node_type in (sjpc.ParallelConversionNode, SpikePackNode, TSANode):
        x = torch.linspace(-1, 9, 40)
        before = x.clone()
        for node in (node_type(4), folded(node_type(4))):
            node.requires_grad_(False).decoded(x)
            node.level(x), node(x.expand(4, -1))
            assert torch.equal(x, before)  # the input stays, unless it may be overwritten
            node.decoded(before.clone(), overwrite=True)


@pytest.mark.parametrize("node", [None, nn.ReLU(), TSANode], ids=str)
def test_a_spiking_activation_holds_a_neuron(node: object) -> None:
    with pytest.raises(sjpc.ConfigError, match="node must be a neuron"):
        sjpc.SpikingActivation(node)


NO_CURRENTS = {
    "bool": torch.ones(4, 2, dtype=torch.bool),
    "bytes": torch.ones(4, 2, dtype=torch.uint8),  # differences over time would wrap around
    "integers": torch.ones(4, 2, dtype=torch.int64),
    "complex": torch.ones(4, 2) * 1j,
    "8 bits": torch.ones(4, 2).to(torch.float8_e4m3fn),
    "sparse": torch.ones(4, 2).to_sparse(),
    "list": [1.0] * 4,
    "string": "1",
    "None": None,
}


@pytest.mark.parametrize("node_type", NODES)
@pytest.mark.parametrize("x_seq", NO_CURRENTS.values(), ids=NO_CURRENTS)
def test_inputs_that_are_no_currents(node_type: type, x_seq: object) -> None:
    node = node_type(4)
    words = f"{node_type.__name__} needs a dense tensor of floating-point numbers"
    for call in (node, node.spikes, node.decoded, node.level):
        with pytest.raises(sjpc.DataError, match=words):
            call(x_seq)


@pytest.mark.parametrize("node_type", NODES)
@pytest.mark.parametrize("spikes", [torch.ones(3, 2), torch.ones(5, 2), torch.tensor(1.0), "spikes"], ids=str)
def test_trains_of_another_length(node_type: type, spikes: object) -> None:
    for call in (node_type(4).decode, node_type(4).amplify):
        with pytest.raises(sjpc.DataError, match=rf"{node_type.__name__}\(T=4\) needs an input \[T=4, N, ...\]"):
            call(spikes)


@pytest.mark.parametrize("node_type", NODES)
def test_trains_of_bytes_are_worth_floats(node_type: type) -> None:
    node = node_type(4, 0.3).requires_grad_(False)
    train = node(torch.rand(5).expand(4, 5))
    assert torch.equal(node.decode(train.to(torch.int8)), node.decode(train))
    assert torch.equal(node.amplify(train.to(torch.int8)), node.amplify(train))


@pytest.mark.parametrize("node_type", NODES)
def test_parameters_on_another_device(node_type: type) -> None:
    with pytest.raises(sjpc.DataError, match=f"{node_type.__name__} has parameters on cpu, but got an input on meta"):
        node_type(4, torch.ones(2))(torch.ones(4, 3, 2, device="meta"))


@pytest.mark.parametrize("node_type", NODES)
def test_nodes_without_values_yet(node_type: type) -> None:
    with torch.device("meta"):
        node = node_type(4, torch.ones(2))
    node = node.to_empty(device="cpu")
    node.load_state_dict(node_type(4, torch.ones(2)).state_dict())
    assert node(torch.ones(4, 3, 2)).shape == (4, 3, 2)


@pytest.mark.parametrize("node_type", [SpikePackNode, TSANode])
@pytest.mark.parametrize("serial", [False, True])
def test_empty_batches(node_type: type, serial: bool) -> None:
    node = node_type(4, serial=serial)
    for shape in ((0, 3), (2, 0)):
        assert node(torch.zeros(4, *shape)).shape == node.spikes(torch.zeros(4, *shape)).shape == (4, *shape)
        assert node.decoded(torch.zeros(shape)).shape == shape


@pytest.mark.parametrize("kind", [np.int64, np.uint8, torch.tensor])
def test_integers_of_any_kind(kind) -> None:
    four = kind(4)
    kinds = (sjpc.ParallelConversionNode, sjpc.SpikePackNode, TSANode)
    nodes = [node_type(four, channel_dim=kind(1)) for node_type in kinds]
    for module in (*nodes, TSANode(8, silent_steps=four), sjpc.QCFS(four), sjpc.DAQCFS(four)):
        kept = [getattr(module, name, 1) for name in ("T", "channel_dim", "silent_steps", "levels")]
        assert all(type(value) is int for value in kept) and 4 in kept
    for flag in (True, np.True_, torch.tensor(True)):
        with pytest.raises(sjpc.ConfigError, match=r"T .* must be an integer"):
            sjpc.ParallelConversionNode(flag)
