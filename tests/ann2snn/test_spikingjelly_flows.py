"""SpikingJelly's own ann2snn examples: unchanged with the plugin, and working with only the converter line changed."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
import upstream_flows as flows
from spikingjelly.activation_based import ann2snn, functional
from torch import nn
from torch.utils.data import DataLoader

import sj_parallel_conversion as sjpc

T = 8


def own_results(*imports: str) -> dict[str, str]:
    """What SpikingJelly's own conversions give in a process that begins with these imports."""
    command = [sys.executable, "-W", "ignore", flows.__file__, *imports]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


@pytest.mark.slow
def test_own_conversions_are_bit_identical_with_the_plugin() -> None:
    plain = own_results("spikingjelly.activation_based.ann2snn")
    assert len(plain) == 8
    assert own_results("sj_parallel_conversion") == plain
    assert own_results("spikingjelly.activation_based.ann2snn", "sj_parallel_conversion") == plain


def test_own_conversions_are_bit_identical_after_unregister() -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        registered = flows.own_results()
        sjpc.unregister()
        assert flows.own_results() == registered
    finally:
        sjpc.register()
        torch.set_num_threads(threads)


def changed_line(model: nn.Module, calibration: DataLoader, time_steps: int = T) -> nn.Module:
    """The converter line of the examples, for our mode."""
    options = {"dataloader": calibration, "time_steps": time_steps, "show_progress": False}
    if hasattr(ann2snn, "ModuleConverter"):
        return ann2snn.Converter(recipe="parallel", **options).convert(model)
    return ann2snn.Converter(mode="parallel", **options)(model)


@pytest.fixture(scope="module", params=flows.EXAMPLES)
def converted(request: pytest.FixtureRequest) -> tuple[nn.Module, nn.Module, DataLoader]:
    model, calibration, test = flows.example(request.param)
    return model, changed_line(model, calibration), test


@pytest.fixture
def decoded(converted: tuple[nn.Module, nn.Module, DataLoader]) -> torch.Tensor:
    """The readout of the whole test set ``[N, classes]``."""
    _, snn, test = converted
    with torch.no_grad():
        return torch.cat([snn.predict(img) for img, _ in test])


@pytest.mark.parametrize("loop", flows.LOOPS, ids=lambda loop: loop.__name__)
@pytest.mark.parametrize("windows", [1, 2])
def test_single_step_loops(
    converted: tuple[nn.Module, nn.Module, DataLoader], decoded: torch.Tensor, loop: Callable, windows: int
) -> None:
    _, snn, test = converted
    summed = flows.val(snn, test, T * windows, loop)
    torch.testing.assert_close(summed / (T * windows), decoded, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", flows.EXAMPLES)
def test_spiking_network_approaches_the_ann(name: str) -> None:
    model, calibration, test = flows.example(name)
    snn = changed_line(model, calibration, time_steps=64)
    images = torch.cat([img for img, _ in test])
    with torch.no_grad():
        expected, decoded = model(images), snn.predict(images)
    varying = expected - expected.mean(0)
    assert (decoded - expected).square().sum() < 0.1 * varying.square().sum()


@pytest.mark.parametrize("readout, scale", [(torch.mean, 1), (torch.sum, T)], ids=["mean", "sum"])
@pytest.mark.parametrize("execution", ["spikes", "packed"])
def test_multi_step_readouts(
    converted: tuple[nn.Module, nn.Module, DataLoader],
    decoded: torch.Tensor,
    readout: Callable,
    scale: int,
    execution: str,
) -> None:
    snn, test = copy.deepcopy(converted[1]), converted[2]
    snn.execution = execution
    functional.set_step_mode(snn, "m")
    outputs = []
    with torch.no_grad():
        for img, _ in test:
            functional.reset_net(snn)
            outputs.append(readout(snn(img.unsqueeze(0).repeat(T, 1, 1, 1, 1)), 0))
    torch.testing.assert_close(torch.cat(outputs) / scale, decoded, rtol=1e-4, atol=1e-5)
