"""Spikes execution against a reference that runs every layer at every step, and counts how often layers run."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from nets import IMAGES, NETS, net
from torch import Tensor, nn
from torch.nn import functional as F

import sj_parallel_conversion as sjpc
from sj_parallel_conversion.ann2snn.network.time_axis import Steps, TimeAxisRunner, mean_over_time
from sj_parallel_conversion.functional import pack_frames


def convert(ann: nn.Module, x: Tensor, T: int = 4) -> sjpc.SpikingNetwork:
    options = {"threshold": "max", "calibration": "da_qcfs", "show_progress": False}
    return sjpc.ParallelConverter([x], time_steps=T, **options).convert(ann)


def count_calls(snn: sjpc.SpikingNetwork, execution: str, x: Tensor) -> Counter:
    calls: Counter = Counter()
    hooks = [
        module.register_forward_hook(lambda module, args, output, name=name: calls.update([name]))
        for name, module in snn.net.named_modules()
        if isinstance(module, (nn.Conv2d, nn.Linear, sjpc.ParallelConversionNode))
    ]
    TimeAxisRunner(snn.net, snn.time_steps, execution).run_sequence((x,))
    for hook in hooks:
        hook.remove()
    return calls


@torch.no_grad()
def test_synapses_run_once_and_the_readout_T_times() -> None:
    torch.manual_seed(0)
    ann = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(36, 5)
    )
    snn = convert(ann, IMAGES, T=6)
    assert count_calls(snn, "spikes", IMAGES) == {"0": 1, "1.node": 1, "3": 1, "4.node": 1, "6": 6}
    assert count_calls(snn, "stepwise", IMAGES) == {"0": 1, "1.node": 1, "3": 6, "4.node": 1, "6": 6}


@pytest.mark.parametrize("T", [1, 3, 8])
@pytest.mark.parametrize("name", NETS)
@torch.no_grad()
def test_stepwise_reference(name: str, T: int) -> None:
    ann, x = net(name)
    snn = convert(ann, x, T)
    ((fast,), (slow,)) = (TimeAxisRunner(snn.net, T, way).run_sequence((x,)) for way in ("spikes", "stepwise"))
    assert fast.shape == slow.shape == (T, *ann(x.clone()).shape)
    torch.testing.assert_close(fast, slow, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(fast.mean(0), snn.predict(x), rtol=1e-4, atol=1e-5)


class Tail(nn.Module):
    """Everything that a readout may do after the last neurons."""

    def __init__(self, function) -> None:
        super().__init__()
        self.conv, self.function = nn.Conv2d(3, 4, 3), function
        self.weight = nn.Parameter(torch.randn(10, 5))

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, F.relu(self.conv(x)))


TAILS = {
    "nothing": lambda m, x: x,
    "max pool": lambda m, x: F.max_pool2d(x, 2),
    "global max pool": lambda m, x: F.max_pool2d(input=x, kernel_size=x.size(2)).flatten(1),
    "max pool, then affine": lambda m, x: F.max_pool2d(x, 2) @ m.weight[:5],
    "slice to size": lambda m, x: x[:, : x.size(1) - 1, :, 1:],
    "view by size": lambda m, x: x.view(x.size(0), -1),
    "view by shape": lambda m, x: x.reshape(x.shape[0], x.shape[1], -1),
    "size as padding": lambda m, x: F.pad(x, (0, 3)),
    "matmul": lambda m, x: x @ m.weight,
    "square": lambda m, x: x * x,
    "integers": lambda m, x: (4 * x).long() + x,
    "power": lambda m, x: x.pow(2).sum(1),
    "normalise": lambda m, x: x / (1 + x.mean(1, keepdim=True)),
    "softmax": lambda m, x: x.mean((2, 3)).softmax(1),
    "input again": lambda m, x: x.mean((2, 3)) * 2 + 1,
    "chunks": lambda m, x: torch.cat(x.chunk(2, 1)[::-1], 1),
    "split": lambda m, x: x.split(2, dim=1)[0] - x.split(2, dim=1)[1],
    "squeeze": lambda m, x: F.adaptive_avg_pool2d(x, 1).squeeze(-1).squeeze(-1),
    "two outputs": lambda m, x: (x.mean((2, 3)), x.flatten(1) * x.size(0)),
}


@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize("execution", ["spikes", "stepwise"])
@torch.no_grad()
def test_tails(tail: str, execution: str) -> None:
    torch.manual_seed(0)
    snn = convert(Tail(TAILS[tail]).eval(), IMAGES)
    y_seq = TimeAxisRunner(snn.net, 4, execution).run_sequence((IMAGES,))
    torch.testing.assert_close(snn.decode(snn.signature.build(y_seq)), snn.predict(IMAGES), rtol=1e-4, atol=1e-5)


class InputAgain(nn.Module):
    """The network's own input reaches its output, past the neurons."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv(x)) + x


@torch.no_grad()
def test_frames_that_reach_the_output() -> None:
    snn = convert(InputAgain().eval(), IMAGES)
    frames = torch.randn(4, *IMAGES.shape, generator=torch.Generator().manual_seed(1))
    snn.step_mode = "m"
    y_seq = snn(frames)
    spikes = y_seq - frames
    amplitude = snn.neurons()[0].node.amplitude.view(-1, 1, 1)
    torch.testing.assert_close(spikes, (spikes.abs() > 1e-3) * amplitude, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(snn.decode(y_seq), snn.predict(frames.mean(0)), rtol=1e-4, atol=1e-5)


def test_means() -> None:
    x = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    x_seq = x.unsqueeze(0).repeat(7, 1, 1)
    assert torch.equal(pack_frames(x_seq, 1), x) and torch.equal(pack_frames(x.expand(7, 3, 5), 1), x)
    frames = torch.randn(7, 3, 5)
    torch.testing.assert_close(pack_frames(frames, 1), frames.mean(0))
    assert torch.equal(mean_over_time(x.expand(7, 3, 5)), x)
    assert mean_over_time(3) == 3
    assert torch.equal(mean_over_time(torch.ones(7, 2, dtype=torch.long)), torch.ones(2, dtype=torch.long))


def test_steps() -> None:
    assert torch.equal(Steps([torch.zeros(2), torch.ones(2)]).mean, torch.full((2,), 0.5))
    assert torch.equal(Steps([torch.zeros(2)], torch.ones(2)).mean, torch.ones(2))
    assert Steps([3, 3]).mean == 3
