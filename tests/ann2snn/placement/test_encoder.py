"""The input as spikes: its levels, every way to run, what calibrations see."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from nets import IMAGES, TOKENS, mlp, net
from spikingjelly.activation_based import functional, monitor
from torch import Tensor, nn

import sj_parallel_conversion as sjpc
from sj_parallel_conversion.ann2snn.config import MODES
from sj_parallel_conversion.neuron.spiking_activation import SpikingActivation


def convert(ann: nn.Module, x: Tensor, **options: object) -> sjpc.SpikingNetwork:
    flags = {"time_steps": 4, "threshold": "max", "calibration": "none", "show_progress": False}
    return sjpc.ParallelConverter([x], **(flags | {"input_encoding": "spikes"} | options)).convert(ann)


def encoder(snn: sjpc.SpikingNetwork) -> SpikingActivation:
    return snn.net.get_submodule("input_encoder")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["concatenated", "shared conv", "mlp", "conv 1d", "tokens"])
@torch.no_grad()
def test_is_the_network_on_rounded_inputs(name: str, mode: str) -> None:
    ann, x = net(name)
    snn, plain = convert(ann, x, mode=mode), convert(ann, x, mode=mode, input_encoding="analogue")
    node = encoder(snn).node
    k = node.code.max_level(4)
    dims = [d for d in range(x.dim()) if d != node.channel_dim % x.dim()]
    largest = x.abs().amax(dims, keepdim=True)
    rounded = (x * k / largest + 0.5).floor().clamp(-k, k) * largest / k
    torch.testing.assert_close(node.decoded(x), rounded)
    assert torch.equal(snn.predict(x), plain.predict(node.decoded(x)))


@pytest.mark.parametrize("mode", MODES)
@torch.no_grad()
def test_all_ways_to_run_agree(mode: str) -> None:
    ann, x = net("concatenated")
    snn = convert(ann, x, mode=mode, calibration="least_squares")
    expected = snn.predict(x)
    sequence = x.expand(4, *x.shape)
    close = {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(sum(snn(x) for _ in range(4)) / 4, expected, **close)
    functional.set_step_mode(snn, "m")
    torch.testing.assert_close(snn.decode(snn(sequence)), expected, **close)
    frames = torch.cat([2 * sequence[:2], 0 * sequence[:2]])
    torch.testing.assert_close(snn.decode(snn(frames)), expected, **close)
    snn.execution = "stepwise"
    torch.testing.assert_close(snn.predict(x), expected, **close)
    snn.execution = "packed"
    assert torch.equal(snn.predict(x), expected)
    for twin in (copy.deepcopy(snn), pickle.loads(pickle.dumps(snn))):
        assert torch.equal(twin.predict(x), expected)


@pytest.mark.parametrize("mode", MODES)
@torch.no_grad()
def test_negative_inputs_are_pairs_of_trains(mode: str) -> None:
    ann, x = net("conv 2d")
    snn = convert(ann, x, mode=mode)
    recorder = monitor.OutputMonitor(snn, MODES[mode])
    snn.predict(x)
    train = recorder.records[0]
    assert train.shape == (4, *x.shape) and set(train.unique().tolist()) == {-1.0, 0.0, 1.0}
    opposite = encoder(snn).node(-train.new_ones(()) * x.expand(4, *x.shape))
    if mode != "css":
        assert not (train > 0).logical_and(train.amin(0) < 0).any(), "one train of the pair is silent"
    assert ((opposite + train) != 0).double().mean() < 0.01  # ties aside, -x is the train of x with other signs
    recorder.remove_hooks()


@torch.no_grad()
def test_what_sign_inputs_have_is_no_matter_of_the_network() -> None:
    """So that a state dict means the same, whatever the data of the conversion were."""
    ann, x = net("concatenated")
    snns = [convert(ann, data, mode="spikepack") for data in (x.abs(), x)]
    assert all(encoder(snn).node.signed for snn in snns)
    train = encoder(snns[0]).node(x.abs().expand(4, *x.shape))
    assert (train >= 0).all() and train.any()
    snns[0].load_state_dict(snns[1].state_dict())
    assert torch.equal(snns[0].predict(x), snns[1].predict(x))


@torch.no_grad()
def test_dead_channels_and_one_threshold_a_layer() -> None:
    ann, x = net("concatenated")
    dead = x.clone()
    dead[:, 1] = 0
    assert encoder(convert(ann, dead)).node.v_threshold[1] == 1
    assert torch.equal(encoder(convert(ann, x, per_channel=False)).node.v_threshold, x.abs().amax())
    tokens = encoder(convert(*net("tokens"))).node
    assert torch.equal(tokens.v_threshold, TOKENS.abs().amax((0, 1))) and tokens.channel_dim == -1


@torch.no_grad()
def test_calibrations_take_back_the_error_of_encoding() -> None:
    """Few levels for skewed inputs, so that most are rounded to 0: the weights learn from what the layers see."""
    torch.manual_seed(0)
    ann = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(512, 5))
    x = torch.randn(256, 3, 12, 12, generator=torch.Generator().manual_seed(1)).abs() ** 3
    train, test = x[:192], x[192:]

    options = {"mode": "spikepack", "threshold": "mse", "calibration": "weights"}
    snn = convert(ann, train, **options)
    plain = convert(ann, train, input_encoding="analogue", **options)
    error = (snn.predict(test) - ann(test)).square().mean()
    uncorrected = (plain.predict(encoder(snn).node.decoded(test)) - ann(test)).square().mean()
    assert error < 0.9 * uncorrected


@torch.no_grad()
def test_trained_quantisers_stay_exact_on_the_encoded_input() -> None:
    ann, x = net("concatenated")
    qat = sjpc.replace_activations(ann, sjpc.QCFS, [x], levels=4, v_threshold=2.0)
    snn = convert(qat, x, calibration="least_squares")
    assert torch.equal(snn.predict(x), qat(encoder(snn).node.decoded(x)))


def test_integer_inputs_are_refused() -> None:
    ann = nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 4), nn.ReLU())
    with pytest.raises(sjpc.ConfigError, match=r"input_encoding='spikes'.*'input_1' is of integers"):
        convert(ann, torch.randint(0, 10, (4, 5)))


@torch.no_grad()
def test_the_ann_and_the_default_are_left_alone() -> None:
    ann, x = mlp(), IMAGES[:, 0, :4, :6].flatten(0, 1)
    ann.eval()
    before = {key: value.clone() for key, value in ann.state_dict().items()}
    convert(ann, x)
    assert all(torch.equal(before[key], value) for key, value in ann.state_dict().items())
    assert len(convert(ann, x).neurons()) == len(convert(ann, x, input_encoding="analogue").neurons()) + 1
