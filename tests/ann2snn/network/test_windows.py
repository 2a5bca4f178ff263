"""Frames that count by their order, in every execution, and streams of several windows."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from nets import IMAGES
from spikingjelly.activation_based import functional
from torch import Tensor, nn

import sj_parallel_conversion as sjpc

T, TAU = 4, 2.0
STREAM = torch.rand(3 * T, *IMAGES.shape, generator=torch.Generator().manual_seed(0))
EXECUTIONS = ["spikes", "packed", "stepwise", "serial"]


def convert(ann: nn.Module, **options: object) -> sjpc.SpikingNetwork:
    options = {"mode": "spikepack", "time_steps": T, "threshold": "max", "show_progress": False} | options
    return sjpc.ParallelConverter([IMAGES.abs()], calibration="da_qcfs", **options).convert(ann)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(36, 5)
    ).eval()


@pytest.fixture(scope="module")
def converted() -> sjpc.SpikingNetwork:
    return convert(network(), frame_tau=TAU)


@pytest.fixture
def snn(converted: sjpc.SpikingNetwork) -> sjpc.SpikingNetwork:
    return copy.deepcopy(converted)


def assert_close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("execution", EXECUTIONS)
@torch.no_grad()
def test_the_network_answers_for_the_packed_frame(snn: sjpc.SpikingNetwork, execution: str, tmp_path: Path) -> None:
    frames = STREAM[:T]
    expected = snn.predict(sjpc.pack_frames(frames, TAU))
    snn.execution = execution
    functional.set_step_mode(snn, "m")
    y = snn.decode(snn(frames))
    assert_close(y, expected)
    assert not torch.allclose(snn.decode(snn(frames.flip(0))), y, atol=1e-3), "the order makes a difference"
    still = IMAGES.abs()
    assert_close(snn.decode(snn(still.repeat(T, 1, 1, 1, 1))), snn.predict(still))
    sjpc.save(snn, tmp_path / "snn")
    loaded = sjpc.load(tmp_path / "snn")
    assert loaded.config.frame_tau == TAU and torch.equal(loaded.decode(loaded(frames)), y)


@torch.no_grad()
def test_input_spikes_and_counts_of_events() -> None:
    snn = convert(network(), frame_tau=TAU, input_encoding="spikes", mode="css")
    counts = (9 * STREAM[:T]).to(torch.uint8)
    functional.set_step_mode(snn, "m")
    for execution in EXECUTIONS[:3]:
        snn.execution = execution
        assert_close(snn.decode(snn(counts)), snn.predict(sjpc.pack_frames(counts, TAU)))


@torch.no_grad()
def test_without_the_option_the_order_makes_no_difference() -> None:
    snn = convert(network())
    functional.set_step_mode(snn, "m")
    assert_close(snn.decode(snn(STREAM[:T])), snn.decode(snn(STREAM[:T].flip(0))))


def test_parts_take_no_sequences() -> None:
    with pytest.raises(sjpc.ConfigError, match=r"frame_tau=2.0 .*submodules.*pack_frames\(x_seq, 2.0\)"):
        sjpc.ParallelConverter([IMAGES], frame_tau=2.0).convert(network(), submodules=["4"])


@pytest.mark.parametrize("execution", EXECUTIONS)
@pytest.mark.parametrize("step_mode", ["s", "m"])
@torch.no_grad()
def test_windows_are_independent(snn: sjpc.SpikingNetwork, execution: str, step_mode: str) -> None:
    snn.execution, snn.step_mode = execution, step_mode
    each = torch.stack([snn.predict(sjpc.pack_frames(window, TAU)) for window in STREAM.split(T)])
    for at_once in (True, False):
        assert_close(sjpc.run_windows(snn, STREAM, at_once=at_once), each.mean(0))
        assert_close(sjpc.run_windows(snn, STREAM, readout=lambda y: y[-1] - y[0], at_once=at_once), each[-1] - each[0])


class Two(nn.Module):
    """Has two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network()

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        y = self.net(x)
        return {"y": y, "twice": y + y}


@torch.no_grad()
def test_other_networks_and_other_outputs() -> None:
    ann = network()
    each = torch.stack([ann(sjpc.pack_frames(window)) for window in STREAM.split(T)])
    assert_close(sjpc.run_windows(ann, STREAM, T), each.mean(0))
    means = torch.stack([ann(window.mean(0)) for window in STREAM.split(T)])
    assert_close(sjpc.run_windows(ann, STREAM, T, frame_tau=1, at_once=False), means.mean(0))
    two = convert(Two().eval(), frame_tau=TAU)
    y = sjpc.run_windows(two, STREAM)
    assert set(y) == {"y", "twice"} and y["y"].shape == (len(IMAGES), 5)
    assert_close(y["twice"], 2 * y["y"])
    parts = sjpc.ParallelConverter([IMAGES], time_steps=T, show_progress=False).convert(ann, submodules=["4"])
    each = torch.stack([parts(sjpc.pack_frames(window)) for window in STREAM.split(T)])
    assert_close(sjpc.run_windows(parts, STREAM), each.mean(0))


def test_training_through_windows() -> None:
    def act() -> nn.Module:
        return sjpc.SpikingActivation(sjpc.SpikePackNode(T, 0.1), packed=True)

    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(IMAGES[0].numel(), 8), act(), nn.Linear(8, 3))
    sjpc.run_windows(net, STREAM, T).square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in net[1].parameters())


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((STREAM[:-1],), sjpc.DataError, r"whole windows of T=4 frames, got shape \[11"),
        ((None,), sjpc.DataError, "got NoneType"),
        ((STREAM, 3), sjpc.ConfigError, "time_steps=3, and the network was converted with 4"),
        ((STREAM, T, 1.5), sjpc.ConfigError, "frame_tau=1.5, and the network was converted with 2.0"),
    ],
)
def test_refused(snn: sjpc.SpikingNetwork, arguments: tuple, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        sjpc.run_windows(snn, *arguments)


@pytest.mark.parametrize("time_steps", [None, 0, 2.0, True])
def test_other_networks_need_T(time_steps: object) -> None:
    with pytest.raises(sjpc.ConfigError, match="give time_steps"):
        sjpc.run_windows(network(), STREAM, time_steps)
