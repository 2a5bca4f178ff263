"""What can be set on a converted network, whole or in parts: it acts and reads back, or is refused."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from nets import IMAGES, net
from spikingjelly.activation_based import functional
from torch import nn

import sj_parallel_conversion as sjpc

EXECUTIONS = ["spikes", "packed", "stepwise", "serial"]
SEQUENCE = IMAGES.expand(4, *IMAGES.shape)


def converter(mode: str = "css") -> sjpc.ParallelConverter:
    flags = {"threshold": "max", "calibration": "da_qcfs", "show_progress": False}
    return sjpc.ParallelConverter([IMAGES], mode=mode, time_steps=4, **flags)


def whole(mode: str = "css") -> sjpc.SpikingNetwork:
    return converter(mode).convert(net("concatenated")[0])


def in_parts(mode: str = "css", second: nn.Module | None = None) -> sjpc.PartlySpikingNetwork:
    torch.manual_seed(0)
    parts = [nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), second or nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU())]
    return converter(mode).convert(nn.Sequential(*parts, nn.Flatten(2)), submodules=["0", "1"])


NETWORKS = pytest.mark.parametrize("make", [whole, in_parts])


def nodes(snn: sjpc.SpikingNetwork | sjpc.PartlySpikingNetwork) -> list[sjpc.SpikingNode]:
    return [site.node for site in snn.neurons()]


@NETWORKS
@pytest.mark.parametrize("execution", EXECUTIONS)
@torch.no_grad()
def test_what_is_set_reads_back_and_copies_keep_it(make, execution: str) -> None:
    snn = make()
    assert snn.execution == "spikes"
    snn.execution = execution
    expected = snn.predict(IMAGES)
    for network in (snn, copy.deepcopy(snn), pickle.loads(pickle.dumps(snn))):
        assert network.execution == execution
        assert [node.serial for node in nodes(network)] == [execution == "serial"] * len(nodes(network))
        assert [site.packed for site in network.neurons()] == [execution == "packed"] * len(nodes(network))
        assert torch.equal(network.predict(IMAGES), expected)


@NETWORKS
@pytest.mark.parametrize("before", EXECUTIONS)
@pytest.mark.parametrize("after", EXECUTIONS)
@torch.no_grad()
def test_nothing_is_left_of_the_execution_before(make, before: str, after: str) -> None:
    snn, fresh = make(), make()
    snn.execution = before
    snn.predict(IMAGES)
    snn.execution = fresh.execution = after
    assert torch.equal(snn.predict(IMAGES), fresh.predict(IMAGES))


@NETWORKS
@pytest.mark.parametrize(("flag", "execution"), [("step_by_step", "stepwise"), ("serial", "serial")])
def test_the_flags_of_before_name_what_took_their_place(make, flag: str, execution: str) -> None:
    snn = make()
    for value in (True, False, "yes"):
        with pytest.raises(sjpc.ConfigError, match=rf"{flag} was replaced.*snn\.execution = '{execution}'"):
            setattr(snn, flag, value)
    with pytest.raises(sjpc.ConfigError, match=rf"{flag} was replaced.*snn\.execution = '{execution}'"):
        getattr(snn, flag)
    assert not hasattr(snn, flag), "code that asks what a module has gets an answer"
    assert snn.execution == "spikes" and not any(node.serial for node in nodes(snn))


@NETWORKS
@pytest.mark.parametrize("name", ["time_steps", "mode", "threshold", "calibration", "fold", "spiking_inputs"])
def test_options_of_the_conversion_cannot_be_set_after_it(make, name: str) -> None:
    snn = make()
    with pytest.raises(sjpc.ConfigError, match=rf"{name} is an option of the conversion.*{name}=16"):
        setattr(snn, name, 16)
    assert snn.time_steps == 4
    snn.names = {0: "cat"}
    assert snn.names == {0: "cat"}, "attributes of the user's own are free"


@NETWORKS
@pytest.mark.parametrize("value", ["spike", None, 1, "SERIAL", ["spikes"]])
def test_unknown_executions_change_nothing(make, value: object) -> None:
    snn = make()
    snn.execution = "packed"
    with pytest.raises(sjpc.ConfigError, match=r"execution=.*'spikes', 'packed', 'stepwise', 'serial'"):
        snn.execution = value
    assert snn.execution == "packed" and all(site.packed for site in snn.neurons())


@NETWORKS
def test_modes_without_a_serial_form_refuse_it(make) -> None:
    snn = make("parallel")
    with pytest.raises(sjpc.ConfigError, match=r"mode='parallel' has no serial form.*'spikepack' or 'css'"):
        snn.execution = "serial"
    assert snn.execution == "spikes"


def test_a_part_that_refuses_is_named_and_the_others_stay() -> None:
    snn = in_parts(second=nn.Sequential(nn.Conv2d(4, 4, 3), nn.SiLU()))
    with pytest.raises(sjpc.ConfigError, match=r"submodule '1': .*serial form.*activation"):
        snn.execution = "serial"
    assert snn.execution == "spikes" and not any(node.serial for node in nodes(snn))


def test_parts_that_were_set_one_by_one_are_mixed() -> None:
    snn = in_parts()
    snn.parts["1"].execution = "packed"
    assert snn.execution == "mixed" and snn.backend == "torch"
    nodes(snn)[0]._backend = "cupy"
    assert snn.backend == "mixed"
    snn.execution, snn.backend = "packed", "torch"
    assert {part.execution for part in snn.parts.values()} == {"packed"} and nodes(snn)[0].backend == "torch"


@NETWORKS
def test_backends_are_set_in_all_neurons_or_in_none(make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sj_parallel_conversion.kernels.launch._check_cupy", lambda owner: None)
    snn = make()
    nodes(snn)[-1].serial = True
    with pytest.raises(sjpc.ConfigError, match="closed forms"):
        snn.backend = "cupy"
    assert snn.backend == "torch"
    nodes(snn)[-1].serial = False
    snn.backend = "cupy"
    assert snn.backend == "cupy" and {node.backend for node in nodes(snn)} == {"cupy"}
    with pytest.raises(sjpc.ConfigError, match="backend='triton' is unknown"):
        snn.backend = "triton"
    assert snn.backend == "cupy"


@torch.no_grad()
def test_a_network_in_parts_takes_no_sequence_in_either_step_mode() -> None:
    snn = in_parts()
    expected = snn(IMAGES)
    for step_mode in ("m", "s"):
        functional.set_step_mode(snn, step_mode)
        assert torch.equal(snn(IMAGES), expected)
        for call in (snn, snn.predict):
            with pytest.raises(sjpc.DataError, match=r"\[N, \.\.\.\] in either step mode, and got a sequence \[T=4"):
                call(SEQUENCE)
    with pytest.raises(sjpc.ConfigError, match="has no step mode"):
        snn.step_mode = "m"
