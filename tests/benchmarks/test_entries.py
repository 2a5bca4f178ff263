"""The lists of models, and the table that is made of them."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import torch
from model_zoo import call, entries_of, tensors_of
from model_zoo.measure import Line

torchvision = pytest.importorskip("torchvision")
SCRIPT = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "models.py"))


def test_torchvision_is_complete() -> None:
    names = [entry.name for entry in entries_of("torchvision")]
    assert len(names) == len(set(names))
    assert set(names) == {n for n in torchvision.models.list_models() if not n.startswith("quantized_")}
    assert len(names) == 109


@pytest.mark.parametrize("name", ["shufflenet_v2_x0_5", "lraspp_mobilenet_v3_large", "raft_small"])
@torch.no_grad()
def test_batches_fit_their_models(name: str) -> None:
    entry = next(e for e in entries_of("torchvision") if e.name == name)
    outputs = tensors_of(call(entry.build().eval(), entry.batch(3)))
    assert outputs and all(len(y) == 3 for y in outputs)


def test_dicts_of_another_library_are_looked_into() -> None:
    class Output(dict):
        """Unknown to torch's pytree, as transformers' outputs may be."""

    y = torch.randn(2)
    assert [t is y for t in tensors_of(Output(loss=None, scores=y, more=(Output(ids=torch.ones(2).long()),)))] == [True]


def test_table() -> None:
    whole = Line("timm", "net", "whole", neurons=3, calls=2, share=0.5, error=0.00012, seconds=1.25)
    assert SCRIPT["row"](whole) == "| timm | net | whole | 3 | 2 | 50.0 | 0.012 | 1.2 |  |  |"
    fails = Line("timm", "other", calls=2, seconds=3.0, why=["ConversionError: a | b", "again"])
    assert SCRIPT["row"](fails) == "| timm | other | fails |  | 2 |  |  | 3.0 |  | ConversionError: a \\| b; again |"
    assert SCRIPT["totals"]([whole, whole, fails]) == "timm: 2 whole, 1 fails of 3"
