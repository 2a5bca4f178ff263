"""Copies and state dicts of a converted network, its gradients and its dtypes."""

from __future__ import annotations

import copy
import functools
import pickle

import pytest
import torch
from converted_nets import convert
from nets import IMAGES, net
from spikingjelly.activation_based import functional

import sj_parallel_conversion as sjpc


@pytest.fixture
def snn() -> sjpc.SpikingNetwork:
    return convert(*net("concatenated"))


@pytest.mark.parametrize("name", ["concatenated", "shared conv", "mlp", "transposed 2d, groups"])
@pytest.mark.parametrize("execution", ["spikes", "packed"])
@torch.no_grad()
def test_copies(name: str, execution: str) -> None:
    ann, x = net(name)
    snn = convert(ann, x)
    snn.execution = execution
    snn(x)  # in the middle of a window, which the copies are too
    again = convert(ann, x + 1)
    again.load_state_dict(snn.state_dict())
    again.execution = execution
    for other in (copy.deepcopy(snn), pickle.loads(pickle.dumps(snn)), again):
        assert other.execution == execution and other.config == snn.config
        assert torch.equal(other.predict(x), snn.predict(x))
        functional.reset_net(other)
        functional.reset_net(snn)
        assert torch.equal(sum(other(x) for _ in range(4)), sum(snn(x) for _ in range(4)))
    assert not any("window" in key or "step" in key for key in snn.state_dict())


def test_save_and_load(snn: sjpc.SpikingNetwork, tmp_path) -> None:
    torch.save(snn.state_dict(), tmp_path / "snn.pt")
    fresh = convert(*net("concatenated"), calibration="da_qcfs")
    fresh.load_state_dict(torch.load(tmp_path / "snn.pt", weights_only=True))
    assert torch.equal(fresh.predict(IMAGES), snn.predict(IMAGES))


@torch.no_grad()
def test_to_empty(snn: sjpc.SpikingNetwork) -> None:
    """A network without values gets room on a device, and then those of a state dict."""
    state, expected = copy.deepcopy(snn.state_dict()), snn.predict(IMAGES)
    snn(IMAGES)
    other = copy.deepcopy(snn).to("meta").to_empty(device="cpu")
    assert other.load_state_dict(state).missing_keys == [] and torch.equal(other.predict(IMAGES), expected)
    assert snn.to_empty(device="cpu", recurse=False) is snn and snn.step == 0


@pytest.mark.parametrize("saved", ["none", "da_qcfs", "least_squares", "weights"])
@pytest.mark.parametrize("fresh", ["none", "da_qcfs", "least_squares"])
@torch.no_grad()
def test_state_dict_loads_whatever_the_calibration(saved: str, fresh: str) -> None:
    ann, x = net("concatenated")
    one, other = (convert(ann, x, calibration=calibration) for calibration in (saved, fresh))
    other.load_state_dict(one.state_dict())
    assert other.state_dict().keys() == one.state_dict().keys()
    assert torch.equal(other.predict(x), one.predict(x))
    with pytest.raises(RuntimeError, match=r"size mismatch for .*v_threshold"):
        convert(ann, x, per_channel=False).load_state_dict(one.state_dict())


@pytest.mark.parametrize("execution", ["spikes", "packed"])
@pytest.mark.parametrize("mode", ["s", "m"])
@pytest.mark.parametrize("fold", [True, False])
def test_can_be_fine_tuned(execution: str, mode: str, fold: bool) -> None:
    """Folded, the weights learn, and the parameters that became part of them do not; unfolded, all do."""
    ann, x = net("concatenated")
    snn = convert(ann, x, fold=fold)
    assert all(parameter.requires_grad is not fold for parameter in snn.parameters())
    assert snn.requires_grad_() is snn
    snn.execution = execution
    functional.set_step_mode(snn, mode)
    y = snn(x.expand(4, *x.shape)).mean(0) if mode == "m" else sum(snn(x) for _ in range(4)) / 4
    y.square().sum().backward()
    for name, parameter in snn.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
        assert parameter.grad is None or parameter.grad.isfinite().all(), name
        assert parameter.requires_grad or (fold and ".node." in name)
    if fold:
        assert not any(site.node.v_threshold.requires_grad for site in snn.neurons())
    else:
        assert all(site.node.v_threshold.grad.abs().sum() > 0 for site in snn.neurons())


def test_evaluation_records_no_gradient(snn: sjpc.SpikingNetwork) -> None:
    """And so it may use bytes and overwrite currents, as under ``torch.no_grad()``."""
    with torch.no_grad():
        expected = snn.predict(IMAGES)
    trains = []
    for site in snn.neurons():
        site.node.decode = functools.partial(lambda decode, train, *args: trains.append(train) or decode(train, *args),
                                             site.node.decode)  # fmt: skip
    assert (snn.predict(IMAGES).numpy() == expected.numpy()).all()
    assert trains and all(train.dtype == torch.int8 for train in trains)
    assert not snn(IMAGES).requires_grad
    x = IMAGES.clone().requires_grad_()
    snn.predict(x).square().sum().backward()
    assert x.grad.abs().sum() > 0, "an input may have a gradient all the same"


@torch.no_grad()
def test_half_precision() -> None:
    ann, x = net("conv 2d")
    ann, x = ann.bfloat16(), x.bfloat16()
    snn = convert(ann, x)
    y = snn.predict(x)
    assert y.dtype == torch.bfloat16
    snn.execution = "packed"
    assert torch.equal(snn.predict(x), y)
