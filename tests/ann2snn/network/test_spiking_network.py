"""The converted network: step modes, executions, windows, decoding."""

from __future__ import annotations

import pytest
import torch
from converted_nets import assert_rounding, convert
from nets import IMAGES, NETS, net
from spikingjelly.activation_based import functional, monitor
from torch import Tensor, nn

import sj_parallel_conversion as sjpc

STEPS = [1, 2, 5, 8]


@pytest.fixture
def snn() -> sjpc.SpikingNetwork:
    return convert(*net("concatenated"))


@pytest.mark.parametrize("name", NETS)
@torch.no_grad()
def test_all_ways_to_run_agree(name: str) -> None:
    ann, x = net(name)
    snn = convert(ann, x)
    T = snn.time_steps
    expected = snn.predict(x)
    assert expected.shape == ann(x.clone()).shape
    assert_rounding(sum(snn(x) for _ in range(T)) / T, expected)
    functional.set_step_mode(snn, "m")
    y_seq = snn(x.expand(T, *x.shape))
    assert y_seq.shape == (T, *expected.shape)
    assert_rounding(snn.decode(y_seq), expected)
    assert_rounding(y_seq.sum(0) / T, expected)
    assert torch.equal(snn(x.unsqueeze(0).repeat(T, *[1] * x.dim())), y_seq), "copies of one image are that image"
    snn.execution = "stepwise"
    assert_rounding(snn.predict(x), expected)
    snn.execution = "packed"
    assert torch.equal(snn.predict(x), expected), "counts and spikes differ"
    packed = snn(x.expand(T, *x.shape))
    assert packed.shape == y_seq.shape
    assert torch.equal(packed.mean(0), expected) and torch.equal(snn.decode(packed), expected)


@pytest.mark.parametrize("T", STEPS)
@torch.no_grad()
def test_single_step_loop_is_the_multi_step_sequence(T: int) -> None:
    ann, x = net("concatenated")
    snn = convert(ann, x, time_steps=T)
    assert snn.step_mode == "s" and snn.time_steps == T
    steps = torch.stack([snn(x) for _ in range(T)])
    functional.reset_net(snn)
    functional.set_step_mode(snn, "m")
    assert torch.equal(steps, snn(x.expand(T, *x.shape)))


@torch.no_grad()
def test_output_of_a_step_may_be_written_to(snn: sjpc.SpikingNetwork) -> None:
    """``out += snn(x)`` is what evaluation loops do, some of them with ``out = snn(x)`` before."""
    out = snn(IMAGES)
    for _ in range(snn.time_steps - 1):
        out += snn(IMAGES)
    assert_rounding(out / snn.time_steps, snn.predict(IMAGES))


@torch.no_grad()
def test_a_new_window_begins_after_T_steps(snn: sjpc.SpikingNetwork) -> None:
    first = [snn(IMAGES) for _ in range(snn.time_steps)]
    other = [snn(IMAGES + 1) for _ in range(snn.time_steps)]
    again = [snn(IMAGES) for _ in range(snn.time_steps)]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(torch.stack(first), torch.stack(other))


@torch.no_grad()
def test_reset_begins_a_new_window(snn: sjpc.SpikingNetwork) -> None:
    first = snn(IMAGES)
    snn(IMAGES)
    functional.reset_net(snn)
    snn(IMAGES + 1)
    functional.reset_net(snn)
    assert torch.equal(snn(IMAGES), first)


@pytest.mark.parametrize("change", [lambda x: x + 1, lambda x: x[:2]])
@torch.no_grad()
def test_an_input_that_changes_within_a_window_is_refused(snn: sjpc.SpikingNetwork, change) -> None:
    snn(IMAGES)
    snn(IMAGES.clone())
    with pytest.raises(sjpc.DataError, match="changed at step 2 of 4") as error:
        snn(change(IMAGES))
    assert "reset_net" in str(error.value) and "set_step_mode(snn, 'm')" in str(error.value)


@torch.no_grad()
def test_an_input_that_is_overwritten_within_a_window_is_refused(snn: sjpc.SpikingNetwork) -> None:
    x = IMAGES.clone()
    snn(x)
    x += 1
    with pytest.raises(sjpc.DataError, match="changed at step 1"):
        snn(x)


@pytest.mark.parametrize("shape", [(3, 4, 3, 12, 12), (5, 4, 3, 12, 12), (4,), (1, 3, 12, 12)])
def test_first_axis_must_be_T(snn: sjpc.SpikingNetwork, shape: tuple[int, ...]) -> None:
    functional.set_step_mode(snn, "m")
    with pytest.raises(sjpc.DataError, match=r"'m' needs an input \[T=4, N, 3, 12, 12\]") as error:
        snn(torch.zeros(shape))
    assert str(list(shape)) in str(error.value)


@pytest.mark.parametrize("execution", ["spikes", "packed"])
@torch.no_grad()
def test_step_mode_can_be_set_back_and_forth(snn: sjpc.SpikingNetwork, execution: str) -> None:
    snn.execution = execution
    expected = snn.predict(IMAGES)
    for mode in ("m", "s", "m", "s"):
        functional.set_step_mode(snn, mode)
        functional.reset_net(snn)
        assert snn.step_mode == mode
        assert torch.equal(snn.predict(IMAGES), expected)
        y = snn(IMAGES.expand(4, *IMAGES.shape)).mean(0) if mode == "m" else sum(snn(IMAGES) for _ in range(4)) / 4
        assert_rounding(y, expected)


@torch.no_grad()
def test_predict_leaves_a_running_window_alone(snn: sjpc.SpikingNetwork) -> None:
    expected = [snn(IMAGES) for _ in range(snn.time_steps)]
    snn(IMAGES)
    snn.predict(IMAGES + 1)
    assert torch.equal(snn(IMAGES), expected[1])


@pytest.mark.parametrize("execution", ["spikes", "packed"])
@torch.no_grad()
def test_event_frames(execution: str) -> None:
    """Frames that differ from step to step: only their mean counts, however it is spread over time."""
    ann, x = net("concatenated")
    snn = convert(ann, x, time_steps=8)
    snn.execution = execution
    functional.set_step_mode(snn, "m")
    events = torch.randint(0, 3, (8, *x.shape), generator=torch.Generator().manual_seed(0)).float()
    expected = snn.predict(events.mean(0))
    assert_rounding(snn.decode(snn(events)), expected)
    assert_rounding(snn.decode(snn(events.flip(0))), expected)
    if execution == "spikes":
        snn.execution = "stepwise"
        assert_rounding(snn.decode(snn(events)), expected)


class ManyOutputs(nn.Module):
    """A dict of a feature, a tuple and a size, as detection and segmentation models return."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head, self.relu = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 1), nn.ReLU()

    def forward(self, x: Tensor) -> dict:
        x = self.relu(self.conv(x))
        return {"features": x, "heads": (self.head(x), x.mean((2, 3))), "batch": x.size(0)}


@torch.no_grad()
def test_outputs_of_any_structure() -> None:
    snn = convert(ManyOutputs().eval(), IMAGES)
    expected = snn.predict(IMAGES)
    assert expected["batch"] == 4
    steps = [snn(IMAGES) for _ in range(4)]
    assert_rounding(sum(y["heads"][1] for y in steps) / 4, expected["heads"][1])
    functional.set_step_mode(snn, "m")
    for execution in ("spikes", "packed"):
        snn.execution = execution
        y_seq = snn(IMAGES.expand(4, *IMAGES.shape))
        assert y_seq["features"].shape == (4, 4, 4, 10, 10) and y_seq["batch"] == 4
        assert_rounding(snn.decode(y_seq), expected)


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor, shift: float = 0.5) -> Tensor:
        return torch.relu(self.conv(x) + shift)


@torch.no_grad()
def test_networks_that_end_in_an_activation() -> None:
    ann = TwoInputs().eval()
    snn = convert(ann, IMAGES)
    theta = snn.neurons()[0].node.amplitude.view(-1, 1, 1)
    functional.set_step_mode(snn, "m")
    y_seq = snn(IMAGES.expand(4, *IMAGES.shape))
    assert torch.equal(y_seq, (y_seq > 0) * theta), "spikes with their amplitude"
    assert (y_seq[1:] >= y_seq[:-1]).all()
    assert_rounding(snn.decode(y_seq), snn.predict(IMAGES))


@pytest.mark.parametrize("mode", ["s", "m", "predict"])
@torch.no_grad()
def test_monitors_see_binary_sorted_trains(mode: str) -> None:
    ann, x = net("conv 2d")
    snn = convert(ann, x, time_steps=5)
    recorder = monitor.OutputMonitor(snn, sjpc.SpikingNode)
    if mode == "m":
        functional.set_step_mode(snn, "m")
        snn(x.expand(5, *x.shape))
    elif mode == "s":
        for _ in range(5):
            snn(x)
    else:
        snn.predict(x)
    assert len(recorder.records) == len(snn.neurons()) == 1
    (train,) = recorder["net.2.node"]
    assert train is recorder.records[0]
    assert train.shape == (5, 2, 6, 6, 6)
    assert set(train.unique().tolist()) == {0.0, 1.0}
    assert (train[1:] >= train[:-1]).all()
    recorder.remove_hooks()


@pytest.mark.parametrize("value", ["spike", None, 1, "PACKED"])
def test_unknown_execution(snn: sjpc.SpikingNetwork, value: object) -> None:
    with pytest.raises(sjpc.ConfigError, match=r"execution=.*'spikes', 'packed', 'stepwise', 'serial'"):
        snn.execution = value
    assert snn.execution == "spikes"


def test_repr(snn: sjpc.SpikingNetwork) -> None:
    assert "time_steps=4, mode=parallel, execution=spikes" in repr(snn)
    assert repr(snn).count("ParallelConversionNode(T=4") == len(snn.neurons()) == 3
