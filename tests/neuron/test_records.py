"""State dicts of single neurons say what their tensors mean, and others are refused before anything is loaded."""

from __future__ import annotations

import copy
import json

import pytest
import torch

import sj_parallel_conversion as sjpc
from sj_parallel_conversion.neuron.records import Recorded

KEY = "_extra_state"


@pytest.mark.parametrize(
    ("saved", "words"),
    [
        (sjpc.ParallelConversionNode(8, 0.5), ["T=8", "T=4"]),
        (sjpc.TSANode(4, 0.5), ["neuron='TSANode'", "neuron='ParallelConversionNode'"]),
        (sjpc.ParallelConversionNode(4, 0.5, signed=True), ["signed=True", "signed=False"]),
        (sjpc.ParallelConversionNode(4, 0.5, channel_dim=-1), ["channel_dim=-1", "channel_dim=1"]),
    ],
)
@pytest.mark.parametrize("strict", [True, False])
def test_a_neuron_refuses_what_means_something_else(saved: sjpc.SpikingNode, words: list[str], strict: bool) -> None:
    node = sjpc.ParallelConversionNode(4, 1.0)
    with pytest.raises(sjpc.StateDictError) as error:
        node.load_state_dict(saved.state_dict(), strict=strict)
    assert all(word in str(error.value) for word in words) and isinstance(error.value, RuntimeError)
    assert node.v_threshold == 1.0, "nothing was loaded"
    node.load_state_dict({k: v for k, v in saved.state_dict().items() if k != KEY}, strict=False)
    assert node.v_threshold == 0.5, "the way out that the message names"


def test_folded_neurons_are_others() -> None:
    saved, node = sjpc.TSANode(4), sjpc.TSANode(4)
    saved.folded_input = saved.folded_output = True
    with pytest.raises(sjpc.StateDictError, match=r"folded_input=True, folded_output=True.*folded_input=False"):
        node.load_state_dict(saved.state_dict())


def test_what_does_not_matter_is_taken() -> None:
    node = sjpc.TSANode(4)
    node.serial = True
    other = sjpc.TSANode(4, 2.0, psi=0.3, amplitude=2.0, activation=torch.nn.Tanh())
    assert str(other.load_state_dict(copy.deepcopy(node).state_dict())) == "<All keys matched successfully>"


def test_the_record_is_bytes_of_json() -> None:
    state = sjpc.SpikePackNode(3).state_dict()[KEY]
    assert state.dtype == torch.uint8 and state.dim() == 1
    assert json.loads(bytes(state.tolist())) == {
        "neuron": "SpikePackNode", "T": 3, "channel_dim": 1, "signed": False, "folded_input": False,
        "folded_output": False,
    }  # fmt: skip


def test_an_average_of_records_is_the_record() -> None:
    one, other = (sjpc.TSANode(4, v) for v in (0.5, 1.0))
    average = {k: v * 0.9 + other.state_dict()[k] * 0.1 for k, v in one.state_dict().items()}
    assert average[KEY].is_floating_point()
    other.load_state_dict(average)
    assert other.v_threshold.item() == pytest.approx(0.55)
    with pytest.raises(sjpc.StateDictError, match="T=4"):
        sjpc.TSANode(5).load_state_dict(average)


def test_a_record_that_cannot_be_read_warns() -> None:
    node = sjpc.TSANode(4)
    scaled = {k: v * 1.5 for k, v in node.state_dict().items()}
    with pytest.warns(UserWarning, match="floating-point tensors alone"):
        node.load_state_dict(scaled)
    assert node.v_threshold == 1.5


def test_an_old_state_dict_lacks_a_key() -> None:
    node = sjpc.TSANode(4)
    old = {k: v for k, v in node.state_dict().items() if k != KEY}
    with pytest.raises(RuntimeError, match=rf"Missing key.*{KEY}"):
        node.load_state_dict(old)
    assert node.load_state_dict(old, strict=False).missing_keys == [KEY]


def test_newer_options_are_not_compared() -> None:
    """A record of another version may have more options, or fewer."""
    node = sjpc.TSANode(4)
    saved = node.record() | {"later": 1}
    del saved["signed"]
    state = node.state_dict() | {KEY: torch.tensor(list(json.dumps(saved).encode()), dtype=torch.uint8)}
    node.load_state_dict(state)


def test_each_kind_has_to_say_what_it_records() -> None:
    with pytest.raises(NotImplementedError):
        Recorded().record()
