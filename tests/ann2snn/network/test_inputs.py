"""The converted network given what it cannot run, and what begins a new window in step mode "s"."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import numpy as np
import pytest
import torch
from nets import IMAGES, TOKENS, mlp, net
from spikingjelly.activation_based import functional
from torch import Tensor, nn

import sj_parallel_conversion as sjpc

T = 4
SEQUENCE = IMAGES.expand(T, *IMAGES.shape)  # N is T too, so that sizes alone do not tell a sequence from images


def convert(ann: nn.Module, x: Tensor, **options: object) -> sjpc.SpikingNetwork:
    options = {"time_steps": T, "threshold": "max", "calibration": "da_qcfs", "show_progress": False} | options
    return sjpc.ParallelConverter([x], **options).convert(ann)


@pytest.fixture(scope="module")
def converted() -> sjpc.SpikingNetwork:
    return convert(*net("concatenated"))


@pytest.fixture
def snn(converted: sjpc.SpikingNetwork) -> sjpc.SpikingNetwork:
    return copy.deepcopy(converted)


def copies(snn: sjpc.SpikingNetwork) -> list[sjpc.SpikingNetwork]:
    return [snn, copy.deepcopy(snn), pickle.loads(pickle.dumps(snn))]


@pytest.mark.parametrize(
    ("mode", "x", "says"),
    [
        ("s", SEQUENCE, r"needs an input \[N, 3, 12, 12\].*shape \[4, 4, 3, 12, 12\].*set_step_mode\(snn, 'm'\)"),
        ("s", IMAGES[0], r"shape \[3, 12, 12\]"),
        ("s", torch.tensor(1.0), r"shape \[\]"),
        ("s", IMAGES[:, :2], r"\.shape\[1\] is 2, and has to be 3"),
        ("s", IMAGES.double(), r"fails on an input.*torch\.float64"),
        ("s", IMAGES.long(), r"fails on an input.*torch\.int64"),
        ("s", IMAGES.to(torch.complex64), r"fails on an input.*torch\.complex64"),
        ("s", IMAGES.to("meta"), r"(fails on an input|parameters on cpu).*meta"),
        ("s", IMAGES[..., :0], r"(fails on an input.*\[4, 3, 12, 0\]|\.shape\[3\] is 0)"),
        ("s", None, "takes one tensor, got NoneType"),
        ("s", IMAGES.numpy(), "takes one tensor, got ndarray"),
        ("s", [IMAGES], "takes one tensor, got list"),
        ("s", {"x": IMAGES}, r"got dict; write \*\*batch for a dict of arguments"),
        ("m", IMAGES, r"needs an input \[T=4, N, 3, 12, 12\], got shape \[4, 3, 12, 12\].*snn\.predict\(x\)"),
        ("m", SEQUENCE[:3], r"got shape \[3, 4, 3, 12, 12\]"),
        ("m", SEQUENCE[None], r"got shape \[1, 4, 4, 3, 12, 12\]"),
        ("m", SEQUENCE[:, :, :2], r"\.shape\[1\] is 2, and has to be 3"),
        ("m", SEQUENCE.double(), r"fails on an input.*torch\.float64"),
        ("m", np.zeros((4, 4, 3, 12, 12), np.float32), "takes one tensor, got ndarray"),
        ("predict", SEQUENCE, r"needs an input \[N, 3, 12, 12\].*set_step_mode\(snn, 'm'\)"),
        ("predict", IMAGES.double(), r"fails on an input.*torch\.float64"),
    ],
)
@pytest.mark.parametrize("execution", ["spikes", "packed"])
@torch.no_grad()
def test_inputs_that_are_refused(
    snn: sjpc.SpikingNetwork, mode: str, execution: str, x: object, says: str
) -> None:
    snn.execution = execution
    if mode == "m":
        functional.set_step_mode(snn, mode)
    for network in copies(snn):
        with pytest.raises(sjpc.DataError, match=says) as error:
            (network.predict if mode == "predict" else network)(x)
        message = str(error.value)
        assert "While executing" not in message and "Original traceback" not in message
        functional.set_step_mode(network, "s")
        assert network(IMAGES).shape == (4, 5), "the network is as good as new"
        functional.set_step_mode(network, "m" if mode == "m" else "s")


@pytest.mark.parametrize("execution", ["spikes", "packed"])
@torch.no_grad()
def test_errors_of_neurons_come_out_clean(execution: str) -> None:
    snn = convert(mlp(), TOKENS[:, 0], fold=False)
    snn.net.get_submodule("0").weight = nn.Parameter(torch.zeros(9, 6))  # 9 channels for a neuron that has 8
    snn.net.get_submodule("0").bias = None
    snn.execution = execution
    with pytest.raises(sjpc.DataError, match=r"^ParallelConversionNode has parameters for 8 channels [^\n]*$"):
        snn.predict(TOKENS[:, 0])
    with pytest.raises(sjpc.DataError, match=r"^ParallelConversionNode has parameters for 8 channels [^\n]*$"):
        snn(TOKENS[:, 0])


@torch.no_grad()
def test_errors_of_hooks_and_memory_pass(snn: sjpc.SpikingNetwork) -> None:
    for error in (KeyError("mine"), torch.cuda.OutOfMemoryError("too large"), KeyboardInterrupt()):

        def fail(*args: object, error: BaseException = error) -> None:
            raise error

        handle = snn.neurons()[0].register_forward_hook(fail)
        with pytest.raises(type(error)) as raised:
            snn.predict(IMAGES)
        assert raised.value is error
        handle.remove()


@pytest.mark.parametrize("shape", [(3, 4, 5), (5, 4, 5), (4, 5)])
def test_sequences_of_another_length_are_not_decoded(snn: sjpc.SpikingNetwork, shape: tuple[int, ...]) -> None:
    y_seq = torch.zeros(shape)
    if len(y_seq) == T:
        assert snn.decode(y_seq).shape == shape[1:]
    else:
        with pytest.raises(sjpc.DataError, match=r"needs an input \[T=4, N, ...\], got shape"):
            snn.decode({"out": y_seq})


@torch.no_grad()
def test_other_sizes_and_an_empty_batch_run(snn: sjpc.SpikingNetwork) -> None:
    assert snn.predict(torch.zeros(2, 3, 20, 16)).shape == (2, 5)
    assert snn.predict(torch.zeros(0, 3, 12, 12)).shape == (0, 5)
    assert snn.predict(IMAGES[:1]).shape == (1, 5)


def to_packed(snn: sjpc.SpikingNetwork) -> None:
    snn.execution = "packed"


def back_and_forth(snn: sjpc.SpikingNetwork) -> None:
    functional.set_step_mode(snn, "m")
    functional.set_step_mode(snn, "s")


def load(snn: sjpc.SpikingNetwork) -> None:
    snn.load_state_dict({key: value * 1.5 for key, value in snn.state_dict().items()})


def load_into_a_parent(snn: sjpc.SpikingNetwork) -> None:
    parent = nn.Sequential(snn)
    parent.load_state_dict({key: value * 1.5 for key, value in parent.state_dict().items()})


NEW_WINDOW: dict[str, Callable[[sjpc.SpikingNetwork], object]] = {
    "execution": to_packed,
    "step mode": back_and_forth,
    "state dict": load,
    "state dict of a parent": load_into_a_parent,
    "train": lambda snn: snn.train(not snn.training),
    "to": lambda snn: snn.to(torch.float32),
    "reset": functional.reset_net,
}


@pytest.mark.parametrize("change", NEW_WINDOW.values(), ids=NEW_WINDOW)
@pytest.mark.parametrize("steps", [1, T - 1])
@torch.no_grad()
def test_what_begins_a_new_window(snn: sjpc.SpikingNetwork, change: Callable, steps: int) -> None:
    fresh = copy.deepcopy(snn)
    for _ in range(steps):
        snn(IMAGES)
    change(snn)
    change(fresh)
    for _ in range(T):
        assert torch.equal(snn(IMAGES), fresh(IMAGES))
    assert snn.step == 0


@torch.no_grad()
def test_what_changes_nothing_leaves_the_window(snn: sjpc.SpikingNetwork) -> None:
    expected = [snn(IMAGES) for _ in range(T)]
    snn(IMAGES)
    snn.execution = snn.execution
    snn.train(snn.training)
    functional.set_step_mode(snn, "s")
    snn.predict(IMAGES + 1)
    with pytest.raises(sjpc.ConfigError):
        snn.execution = "foo"
    assert torch.equal(snn(IMAGES), expected[1])


@pytest.mark.parametrize("execution", ["spikes", "packed"])
def test_copies_within_a_window_of_an_autograd_graph(snn: sjpc.SpikingNetwork, execution: str) -> None:
    snn.requires_grad_().execution = execution
    first = snn(IMAGES)
    assert first.requires_grad
    for other in copies(snn)[1:]:
        assert other.step == 0 and other.window_output is None
        assert torch.equal(other(IMAGES), first)
    assert snn.step == 1, "the window of the original goes on"
    snn(IMAGES).sum().backward()
