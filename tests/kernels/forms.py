"""Both forms of a node, and inputs that tell them apart."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

import sj_parallel_conversion as sjpc
from sj_parallel_conversion.neuron import SpikingNode
from sj_parallel_conversion.parameters import along_channels

DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]
KINDS = {
    "sorted": sjpc.ParallelConversionNode,
    "binary": sjpc.SpikePackNode,
    "signed_digit": sjpc.TSANode,
    "sorted, signed": functools.partial(sjpc.ParallelConversionNode, signed=True),
    "binary, signed": functools.partial(sjpc.SpikePackNode, signed=True),
    "signed_digit, signed": functools.partial(sjpc.TSANode, signed=True),
}


def both(node: SpikingNode, x: Tensor, call: str = "forward") -> tuple[Tensor, Tensor]:
    """What the torch form and the kernel give."""
    results = []
    for backend in ("torch", "cupy"):
        node.backend = backend
        results.append(getattr(node, call)(x))
    return tuple(results)


def assert_same(node: SpikingNode, x_seq: Tensor) -> None:
    """Train and value, to the bit."""
    for x, call in ((x_seq, "forward"), (x_seq[0], "decoded")):
        expected, actual = both(node, x, call)
        assert actual.dtype == expected.dtype and actual.device == expected.device
        assert torch.equal(actual, expected)


def near_ties(node: SpikingNode, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Currents over the whole range of a node, half of them as near to a tie as floats come."""
    levels, n, device = int(node.code.max_level(node.T)), node.code.levels_per_threshold(node.T), generator.device
    x = torch.randn(shape, generator=generator, device=device) * levels / n
    psi = node.v_threshold / 2 if node.psi is None else node.psi
    theta, psi, shift = (along_channels(p, x, node.channel_dim, "") for p in (node.v_threshold, psi, node.shift))
    ties = (torch.randint(-2, levels + 2, shape, generator=generator, device=device) * theta - psi) / n - shift
    return torch.where(torch.rand(shape, generator=generator, device=device) < 0.5, x, ties)
