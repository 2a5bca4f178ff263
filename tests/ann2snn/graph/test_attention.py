"""Attention written out computes what it did, and its linear layers receive spikes."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn

import sj_parallel_conversion as sjpc
from sj_parallel_conversion.ann2snn import graph
from sj_parallel_conversion.ann2snn.graph.shapes import record_shapes

TOKENS = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(0))


class Block(nn.Module):
    """Self-attention between a ReLU and a linear layer."""

    def __init__(self, cross: bool = False, read_weights: bool = False, mask: bool = False, **options: object) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(8, 8), nn.Linear(8, 4)
        self.attention = nn.MultiheadAttention(8, 2, **options)
        self.cross, self.read_weights, self.mask = cross, read_weights, mask

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.embed(x))
        key = x * 2 if self.cross else x
        y, weights = self.attention(x, key, key, attn_mask=torch.eye(5).bool() if self.mask else None)
        return self.head(y + weights.sum() if self.read_weights else y)


PLAIN = [
    {"batch_first": True}, {}, {"batch_first": True, "bias": False}, {"cross": True, "batch_first": True},
    {"batch_first": True, "kdim": 8, "vdim": 8},
]  # fmt: skip
OTHER = [{"read_weights": True}, {"mask": True, "batch_first": True}, {"add_zero_attn": True}, {"add_bias_kv": True}]


def traced(options: dict[str, bool]) -> tuple[nn.Module, torch.fx.GraphModule]:
    torch.manual_seed(0)
    ann = Block(**options).eval()
    if ann.attention.out_proj.bias is not None:
        nn.init.normal_(ann.attention.out_proj.bias)
    model = graph.trace(ann)
    record_shapes(model, TOKENS)
    graph.open_attention(model)
    return ann, model


@pytest.mark.parametrize("options", PLAIN, ids=str)
@torch.no_grad()
def test_written_out(options: dict[str, bool]) -> None:
    ann, model = traced(options)
    assert not any(isinstance(module, nn.MultiheadAttention) for module in model.modules())
    for m in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        torch.testing.assert_close(m(TOKENS), ann(TOKENS), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("options", OTHER, ids=str)
@torch.no_grad()
def test_left_alone(options: dict[str, bool]) -> None:
    ann, model = traced(options)
    assert isinstance(model.attention, nn.MultiheadAttention)
    torch.testing.assert_close(model(TOKENS), ann(TOKENS))


def test_its_linear_layers_receive_spikes() -> None:
    ann = Block(batch_first=True).eval()
    converter = sjpc.ParallelConverter([TOKENS], spiking_inputs=True, time_steps=256, show_progress=False)
    snn = converter.convert(ann)
    report = sjpc.inspect(snn, show=False)
    assert [row.name for row in report.analogue] == ["attention.attend"] and report.graded == ()
    assert report.accumulates == 5 * (4 * 64 + 32) and report.analogue[0].macs == 2 * 5 * 5 * 8
    torch.testing.assert_close(snn.predict(TOKENS), ann(TOKENS), rtol=0.05, atol=0.02)
