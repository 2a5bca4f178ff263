"""The CuPy backend where it belongs: on a GPU, against the torch form there."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from forms import DTYPES, KINDS, assert_same, both, near_ties
from nets import net

import sj_parallel_conversion as sjpc
from sj_parallel_conversion.functional import CODES
from sj_parallel_conversion.kernels import spike_train

HAS_BOTH = torch.cuda.is_available() and torch.version.cuda is not None and importlib.util.find_spec("cupy") is not None
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not HAS_BOTH, reason="needs a CUDA GPU and CuPy")]


@pytest.mark.parametrize("T", [1, 4, 8, 12])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_static_input_gives_the_torch_form_to_the_bit(kind: str, dtype: torch.dtype, T: int) -> None:
    generator = torch.Generator("cuda").manual_seed(T)
    for theta in (torch.tensor(0.7), torch.rand(16) + 0.2):
        shift, psi, amplitude = torch.rand_like(theta) - 0.5, torch.rand_like(theta), theta + 0.1
        for options in ({}, {"shift": shift, "psi": psi, "amplitude": amplitude}):
            node = KINDS[kind](T, theta, **options).requires_grad_(False).cuda()
            x = near_ties(node, (5, 16, 12, 12), generator).to(dtype)
            for step in (x, x.contiguous(memory_format=torch.channels_last), x[..., 1:-2]):
                assert_same(node, step.expand(T, *step.shape))
            assert_same(node, x.unsqueeze(0).repeat(T, 1, 1, 1, 1))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_currents_that_change_over_time(kind: str, dtype: torch.dtype) -> None:
    """Sixteenths add up exactly in any order."""
    x_seq = (torch.randint(-64, 192, (8, 3, 16, 9, 9), device="cuda") / 16).to(dtype)
    node = KINDS[kind](8, torch.linspace(0.25, 2, 16)).requires_grad_(False).cuda()
    assert_same(node, x_seq)
    assert_same(node, x_seq.flatten(0, 1).contiguous(memory_format=torch.channels_last).view(x_seq.shape))


@pytest.mark.parametrize("size", [1, 255, 257, 8 * 256 + 8, 1_000_003, 2**24])
def test_sizes_around_those_of_blocks(size: int) -> None:
    node = sjpc.ParallelConversionNode(3, 0.5).requires_grad_(False).cuda()
    for dtype in (torch.float32, torch.float16):
        x = torch.randn(size, device="cuda").to(dtype)
        assert_same(node, x.expand(3, size))


@pytest.mark.slow
def test_more_elements_than_32_bits_count() -> None:
    size = 2**31 + 8
    if torch.cuda.mem_get_info()[0] < 8 * size:
        pytest.skip(f"needs {8 * size / 2**30:.0f} GiB of free GPU memory")
    node = sjpc.ParallelConversionNode(1, 1.0, backend="cupy").requires_grad_(False).cuda()
    spikes = node(torch.ones(1, size, dtype=torch.bfloat16, device="cuda"))
    assert all(bool((part == 1).all()) for part in spikes[0].split(2**28))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("static", [True, False])
def test_gradients_are_those_of_the_torch_form(kind: str, static: bool) -> None:
    theta = torch.tensor([0.5, 1.0, 2.0])
    node = KINDS[kind](4, theta, shift=torch.tensor([0.1, -0.2, 0.0]), psi=0.3, amplitude=theta + 0.1).cuda()
    x_seq = (torch.randint(-32, 64, (1 if static else 4, 64, 3), device="cuda") / 16).requires_grad_()
    for call, used in (("forward", [node.v_threshold, node.shift, node.psi]), ("decoded", list(node.parameters()))):
        outputs = both(node, x_seq.expand(4, 64, 3) if call == "forward" else x_seq[0], call)
        grad = torch.randn_like(outputs[0])
        expected, actual = (torch.autograd.grad(y, [x_seq, *used], grad) for y in outputs)
        torch.testing.assert_close(actual, expected)


def test_runs_in_the_current_stream() -> None:
    """Work queued before the node, and after it, in a stream of the user's own, is seen in order."""
    node = sjpc.ParallelConversionNode(4, 1.0, backend="cupy").requires_grad_(False).cuda()
    x = torch.zeros(2**22, device="cuda")
    node(x.expand(4, -1))  # compiled before anything is timed against it
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)  # the default stream would overtake
        x.fill_(1)
        count = node(x.expand(4, -1)).sum()
    stream.synchronize()
    assert count.item() == 4 * 2**22


def test_trains_of_integers() -> None:
    x_seq = torch.randn(6, 4, 64, device="cuda") * 20
    for kind in CODES:
        node = KINDS[kind](6).cuda()
        node.backend = "cupy"
        assert torch.equal(spike_train(node, x_seq, node._torch_train, torch.int8).float(), node(x_seq))


def test_tensors_and_nodes_elsewhere_are_refused() -> None:
    with pytest.raises(sjpc.DataError, match="one CUDA device"):
        sjpc.ParallelConversionNode(4, backend="cupy")(torch.ones(4, 2, device="cuda"))
    with pytest.raises(sjpc.DataError, match="one CUDA device"):
        sjpc.ParallelConversionNode(4, backend="cupy").cuda()(torch.ones(4, 2))


@pytest.mark.parametrize("execution", ["spikes", "packed"])
def test_networks_give_the_same_result(execution: str) -> None:
    ann, x = net("concatenated")
    ann, x = ann.cuda(), x.cuda()
    options = {"time_steps": 4, "threshold": "max", "calibration": "none", "show_progress": False}
    snn = sjpc.ParallelConverter([x], backend="cupy", **options).convert(ann)
    snn.execution = execution
    actual = snn.predict(x)
    snn.backend = "torch"
    torch.testing.assert_close(actual, snn.predict(x))
