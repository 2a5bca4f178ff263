"""Networks of weighted codes: max pooling, and the serial forms in a network."""

from __future__ import annotations

import copy
import itertools
import pickle

import pytest
import torch
from nets import IMAGES, NETS, net
from spikingjelly.activation_based import functional, monitor
from torch import Tensor, nn

import sj_parallel_conversion as sjpc
from sj_parallel_conversion.ann2snn.network.time_axis import TimeAxisRunner

MODES = ["spikepack", "css"]
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def convert(ann: nn.Module, x: Tensor, **options: object) -> sjpc.SpikingNetwork:
    flags = {"mode": "css", "time_steps": 4, "threshold": "max", "calibration": "da_qcfs", "show_progress": False}
    return sjpc.ParallelConverter([x], **(flags | options)).convert(ann)


def pooled(pool: nn.Module) -> nn.Module:
    """Max pooling between neurons and before the readout."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), pool, nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), pool]
    return nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(5))


@pytest.mark.parametrize("encoding", ["analogue", "spikes"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("pool", [nn.MaxPool2d(2), nn.MaxPool2d(3, stride=2, padding=1), nn.AdaptiveMaxPool2d(3)])
@torch.no_grad()
def test_max_pooling_is_exact(pool: nn.Module, mode: str, encoding: str) -> None:
    ann = pooled(pool)
    ann(IMAGES)
    snn = convert(ann, IMAGES, mode=mode, input_encoding=encoding)
    snn.execution = "packed"
    expected = snn.predict(IMAGES)
    snn.execution = "spikes"
    assert torch.equal(snn.predict(IMAGES), expected)
    functional.set_step_mode(snn, "m")
    sequence = IMAGES.expand(4, *IMAGES.shape)
    torch.testing.assert_close(snn.decode(snn(sequence)), expected, **CLOSE)
    snn.execution = "stepwise"
    torch.testing.assert_close(snn.decode(snn(sequence)), expected, **CLOSE)


@pytest.mark.parametrize("mode", MODES)
@torch.no_grad()
def test_stepwise_a_pool_passes_on_the_train_of_the_largest(mode: str) -> None:
    ann = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2))
    snn = convert(ann, IMAGES, mode=mode)
    recorder = monitor.OutputMonitor(snn, type(snn.neurons()[0].node))
    (y_seq,) = TimeAxisRunner(snn.net, 4, "stepwise").run_sequence((IMAGES,))
    node, train = snn.neurons()[0].node, recorder.records[0]
    values, winners = nn.functional.max_pool2d(node.decode(train), 2, return_indices=True)
    expected = torch.stack([s.flatten(2).gather(2, winners.flatten(2)).view_as(values) for s in node.amplify(train)])
    assert torch.equal(y_seq, expected)
    torch.testing.assert_close(y_seq.mean(0), values)
    recorder.remove_hooks()


def error(actual: Tensor, expected: Tensor) -> float:
    return ((actual - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("encoding", ["analogue", "spikes"])
@pytest.mark.parametrize("name", NETS)
@torch.no_grad()
def test_serial_networks(name: str, encoding: str) -> None:
    """SpikePack's loop answers as the closed form does; TSA neurons are near it, and nearer with more steps."""
    ann, x = net(name)
    for mode, T, tolerance in (("spikepack", 4, 1e-4), ("css", 4, 0.3), ("css", 8, 0.05)):
        snn = convert(ann, x, mode=mode, time_steps=T, input_encoding=encoding)
        expected = snn.predict(x)
        if mode == "css" and any(site.node.activation is not None for site in snn.neurons()):
            with pytest.raises(sjpc.ConfigError, match="cannot apply an activation"):
                snn.execution = "serial"
            continue
        snn.execution = "serial"
        assert error(snn.predict(x), expected) < tolerance, (mode, T)
        functional.set_step_mode(snn, "m")
        torch.testing.assert_close(snn.decode(snn(x.expand(T, *x.shape))), snn.predict(x), **CLOSE)
        snn.execution = "spikes"
        assert torch.equal(snn.predict(x), expected)


@torch.no_grad()
def test_constants_are_injected_once() -> None:
    """A bias that cancels most of the digits' current: were it spread over the window, the neuron would over-fire."""
    torch.manual_seed(0)
    ann = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4))
    ann[2].weight.data.abs_()
    ann[2].bias.data -= ann[2](ann[1](ann[0](torch.randn(64, 6)))).mean(0)
    x = torch.randn(64, 6)
    snn = convert(ann, x, time_steps=6, calibration="none")
    levels = [snn.neurons()[1].node.decode]
    recorder = monitor.OutputMonitor(snn, sjpc.TSANode)
    snn.predict(x)
    snn.execution = "serial"
    snn.predict(x)
    closed, serial = (levels[0](record) for record in recorder.records[1::2])
    step = snn.neurons()[1].node.v_threshold
    # the input of this layer may differ by a level as well, so a few levels and not one
    assert ((closed - serial).abs() / step).mean() < 1
    assert snn.execution == "serial" and all(site.node.serial for site in snn.neurons())
    recorder.remove_hooks()


@pytest.mark.parametrize(
    ("mode", "T", "filled", "highest"),
    [("spikepack", 4, 1, 15), ("css", 4, 1, 15), ("css", 6, 1.0, 63), ("css", 4, 0.67, 10), ("parallel", 8, 0.5, 4)],
)
@torch.no_grad()
def test_thresholds_are_for_the_levels_that_are_to_be_filled(mode: str, T: int, filled: float, highest: int) -> None:
    """All of them by default; otherwise those above are there for larger values."""
    ann = nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 1))
    for layer in (ann[0], ann[2]):
        layer.weight.fill_(1)
        layer.bias.zero_()
    x = torch.linspace(0, 1, 512).unsqueeze(1)
    for threshold, calibration in itertools.product(("mse", "max"), ("none", "least_squares", "weights")):
        options = {"threshold": threshold, "calibration": calibration, "filled_levels": filled}
        snn = convert(ann, x, mode=mode, time_steps=T, **options)
        node = snn.neurons()[0].node
        most, step = node.code.max_level(T), node.v_threshold.item() / node.code.levels_per_threshold(T)
        assert 0.85 < step * highest < 1.1
        assert threshold == "mse" or step * highest == pytest.approx(1.0)
        assert snn.predict(x[-1:] * 9) > 0.85 * most / highest


@pytest.mark.parametrize("fold", [True, False])
@pytest.mark.parametrize("encoding", ["analogue", "spikes"])
@pytest.mark.parametrize("mode", MODES)
@torch.no_grad()
def test_a_node_that_is_made_serial_alone_answers_as_before(mode: str, encoding: str, fold: bool) -> None:
    """It reads decoded values, whole at the first step: of these the serial form makes the closed form's train."""
    ann, x = net("concatenated")
    snn = convert(ann, x, mode=mode, fold=fold, input_encoding=encoding)
    expected = snn.predict(x)
    for site in snn.neurons()[::2]:
        site.node.serial = True
    assert snn.execution == "spikes"
    assert torch.equal(snn.predict(x), expected)
    snn.execution = "packed"
    assert torch.equal(snn.predict(x), expected)
    functional.set_step_mode(snn, "m")
    for snn.execution in ("spikes", "stepwise"):
        assert [site.node.serial for site in snn.neurons()[:2]] == [True, False]
        torch.testing.assert_close(snn.decode(snn(x.expand(4, *x.shape))), expected, **CLOSE)
    snn.execution = "serial"
    snn.execution = "packed"
    assert not any(site.node.serial for site in snn.neurons())


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("silent_steps", [0, 1, 3])
@torch.no_grad()
def test_the_serial_form_of_a_constant_is_the_closed_form(silent_steps: int, signed: bool) -> None:
    x = torch.arange(-639, 640, 2) / 32  # no ties, which the serial form rounds to odd levels as well as to even ones
    node = sjpc.TSANode(4, serial=True, silent_steps=silent_steps, signed=signed, shift=0.25)
    assert torch.equal(node.decode(node(node.constant(x))), node.decoded(x))
    assert torch.equal(node.constant(x).mean(0), x)
    ties = torch.arange(-20, 20) + 0.25
    assert (node.decode(node(node.constant(ties))) - node.decoded(ties)).abs().max() <= 1


@torch.no_grad()
def test_serial_copies() -> None:
    ann, x = net("concatenated")
    snn = convert(ann, x)
    snn.execution = "serial"
    for twin in (copy.deepcopy(snn), pickle.loads(pickle.dumps(snn))):
        assert twin.execution == "serial" and torch.equal(twin.predict(x), snn.predict(x))


def test_sorted_codes_have_no_serial_form() -> None:
    snn = convert(*net("mlp"), mode="parallel")
    with pytest.raises(sjpc.ConfigError, match=r"mode='parallel'.*'spikepack' or 'css'"):
        snn.execution = "serial"
    assert snn.execution == "spikes"
