"""Choosing a backend: names, messages, copies, networks, SpikingJelly's own way to set it."""

from __future__ import annotations

import copy
import pickle
import sys
from collections.abc import Callable

import pytest
import torch
from nets import net
from spikingjelly.activation_based import functional

import sj_parallel_conversion as sjpc
from sj_parallel_conversion.kernels import launch

NODES = [sjpc.ParallelConversionNode, sjpc.SpikePackNode, sjpc.TSANode]
SERIAL = [
    lambda **options: sjpc.SpikePackNode(4, serial=True, **options),
    lambda **options: sjpc.SpikePackNode(4, tau=1.5, **options),
    lambda **options: sjpc.TSANode(4, serial=True, **options),
]
QUICK = {"time_steps": 4, "threshold": "max", "calibration": "none", "show_progress": False}


@pytest.fixture
def no_cupy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", object())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.parametrize("node_type", NODES)
def test_torch_is_the_default(node_type: type) -> None:
    assert node_type(4).backend == "torch"
    assert node_type(4).supported_backends == ("torch", "cupy")
    assert node_type(4, backend="torch").backend == "torch"


@pytest.mark.parametrize("name", ["triton", "CUPY", "", None, 1, ["cupy"]])
@pytest.mark.parametrize("node_type", NODES)
def test_unknown_names_are_refused_and_the_known_listed(node_type: type, name: object) -> None:
    node = node_type(4)
    for ask in (lambda: node_type(4, backend=name), lambda: setattr(node, "backend", name)):
        with pytest.raises(sjpc.ConfigError, match=f"{node_type.__name__}: backend=.* 'torch', 'cupy'") as error:
            ask()
        assert repr(name) in str(error.value)
    assert node.backend == "torch"


def choices() -> list[Callable]:
    return [
        lambda: sjpc.ParallelConversionNode(4, backend="cupy"),
        lambda: setattr(sjpc.TSANode(4), "backend", "cupy"),
        lambda: sjpc.ConversionConfig(backend="cupy"),
        lambda: sjpc.ParallelConverter([torch.ones(1)], backend="cupy"),
    ]


@pytest.mark.parametrize("ask", choices())
def test_without_cupy_it_says_what_to_install(ask: Callable, no_cupy: None) -> None:
    with pytest.raises(sjpc.ConfigError, match=r"needs CuPy: pip install cupy-cuda.*backend='torch'"):
        ask()


@pytest.mark.parametrize("ask", choices())
def test_without_a_gpu_it_says_so(ask: Callable, no_gpu: None) -> None:
    with pytest.raises(sjpc.ConfigError, match=r"needs a CUDA device.*backend='torch'"):
        ask()


@pytest.mark.parametrize("make", SERIAL)
def test_loops_over_time_run_on_torch(make: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    assert make().supported_backends == ("torch",)
    with pytest.raises(sjpc.ConfigError, match=r"closed forms; serial=True.*run on backend='torch'"):
        make(backend="cupy")
    monkeypatch.setattr(launch, "_check_cupy", lambda owner: None)
    node = sjpc.TSANode(4, backend="cupy")
    node.serial = True
    with pytest.raises(sjpc.ConfigError, match="closed forms"):
        node(torch.ones(4, 2))


def test_tensors_and_nodes_elsewhere_are_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "_check_cupy", lambda owner: None)
    node = sjpc.SpikePackNode(4, backend="cupy")
    for call, x in ((node, torch.ones(4, 2)), (node.decoded, torch.ones(2)), (node, torch.ones(4, 2, device="meta"))):
        with pytest.raises(sjpc.DataError, match=r"SpikePackNode\(backend='cupy'\) needs .* one CUDA device.*'torch'"):
            call(x)


@pytest.mark.parametrize("node_type", NODES)
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda node: pickle.loads(pickle.dumps(node))])
def test_copies_keep_the_backend_and_need_no_cupy(
    node_type: type, copied: Callable, no_cupy: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a node that was saved where there is a GPU, and is loaded where there is none."""
    node = node_type(4)
    with monkeypatch.context() as patch:
        patch.setattr(launch, "_check_cupy", lambda owner: None)
        node.backend = "cupy"
    twin = copied(node)
    assert twin.backend == "cupy"
    with pytest.raises(sjpc.DataError, match="backend='torch'"):
        twin(torch.ones(4, 2))
    twin.backend = "torch"
    assert twin(torch.ones(4, 2)).shape == (4, 2)


def test_a_network_converts_for_either_backend_with_the_same_result(host_backend: None) -> None:
    ann, x = net("concatenated")
    on_torch, on_cupy = (
        sjpc.ParallelConverter([x], backend=backend, **QUICK).convert(ann) for backend in ("torch", "cupy")
    )
    assert (on_torch.backend, on_cupy.backend) == ("torch", "cupy")
    assert {site.node.backend for site in on_cupy.neurons()} == {"cupy"}
    for execution in ("spikes", "packed"):
        on_torch.execution = on_cupy.execution = execution
        assert torch.equal(on_cupy.predict(x), on_torch.predict(x))
    assert copy.deepcopy(on_cupy).backend == "cupy" == pickle.loads(pickle.dumps(on_cupy)).backend


@pytest.mark.parametrize("options", [{}, {"input_encoding": "spikes"}, {"fold": False}], ids=str)
@pytest.mark.parametrize("execution", ["spikes", "packed"])
def test_folded_networks_give_the_same_results_and_gradients(
    execution: str, options: dict[str, object], host_backend: None
) -> None:
    ann, x = net("concatenated")
    snn = sjpc.ParallelConverter([x], **QUICK | options).convert(ann)
    snn.requires_grad_().execution, results = execution, []
    for snn.backend in ("torch", "cupy"):
        with torch.no_grad():
            bare = snn.predict(x)
        snn.zero_grad()
        y = snn.predict(x)
        y.sum().backward()
        assert torch.equal(y, bare)
        results.append((y, [parameter.grad for parameter in snn.parameters() if parameter.requires_grad]))
    (expected, of_torch), (actual, of_cupy) = results
    assert torch.equal(actual, expected)
    torch.testing.assert_close(of_cupy, of_torch)


def test_a_network_sets_all_its_neurons(host_backend: None) -> None:
    ann, x = net("concatenated")
    snn = sjpc.ParallelConverter([x], **QUICK).convert(ann)
    snn.backend = "cupy"
    assert {site.node.backend for site in snn.neurons()} == {"cupy"}
    snn.neurons()[0].node.backend = "torch"
    assert snn.backend == "mixed"
    with pytest.raises(sjpc.ConfigError, match="'torch', 'cupy'"):
        snn.backend = "lava"


@pytest.mark.skipif(not hasattr(functional, "set_backend"), reason="SpikingJelly 2.0.0 has no set_backend")
def test_spikingjelly_s_set_backend(host_backend: None, caplog: pytest.LogCaptureFixture) -> None:
    ann, x = net("concatenated")
    snn = sjpc.ParallelConverter([x], **QUICK).convert(ann)
    functional.set_backend(snn, "cupy", type(snn))
    assert snn.backend == "cupy" and not caplog.records
    functional.set_backend(snn, "torch", type(snn.neurons()[0].node))
    assert snn.backend == "torch"
    serial = torch.nn.Sequential(sjpc.TSANode(4, serial=True))
    functional.set_backend(serial, "cupy")
    assert serial[0].backend == "torch" and "does not supports for backend=cupy" in caplog.text
