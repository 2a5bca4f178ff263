"""The benchmark's own parts: the paper's forms of the neuron are the neuron, and measurements measure."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from benchmark import Row, table
from node_forms import FORMS
from timing import alternating, peak_memory, ratios
from torch import nn

import sj_parallel_conversion as sjpc


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("T", [1, 2, 3, 8, 21])
@torch.no_grad()
def test_the_paper_s_forms_are_the_neuron(form: str, T: int) -> None:
    x_seq = torch.randn(T, 50, 7, generator=torch.Generator().manual_seed(T)).double()
    expected = sjpc.ParallelConversionNode(T, torch.tensor(1.3).double(), psi=0.4)(x_seq)
    assert torch.equal(FORMS[form](x_seq, 1.3, 0.4), expected)


def test_contestants_take_turns() -> None:
    order: list[str] = []
    times = alternating({name: lambda name=name: order.append(name) for name in "ab"}, 0.0, "test")
    assert order == list("ababba") and all(len(runs) == 2 for runs in times.values())
    assert ratios({"a": [1.0, 2.0, 4.0], "b": [2.0, 6.0]}) == {"a": 1.0, "b": 2.5}


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux only")
def test_peak_memory_of_a_fresh_process() -> None:
    layer = nn.Linear(1024, 16 * 1024, bias=False)  # 1,024 rows of output are 64 MiB
    assert 60 < peak_memory(layer, torch.ones(1024, 1024)) < 200


def test_table() -> None:
    text = table([Row("net", "ANN", 1.0, 1.0), Row("net", "packed", 0.9, 0.9, 12.3)], "ANN")
    assert text.splitlines()[0] == "### net" and text.splitlines()[-1] == "| packed | 0.9 | 0.90 | 12 |"
