"""Multiply-accumulates against numbers worked out by hand, whatever kernel computes them."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sj_parallel_conversion.ann2snn.graph.macs import MacCounter, macs_of

MAPS, TOKENS = torch.randn(2, 3, 8, 8), torch.randn(2, 7, 8)
QUERIES, KEYS, VALUES = torch.randn(2, 4, 5, 8), torch.randn(2, 4, 6, 8), torch.randn(2, 4, 6, 3)

CASES = {
    "convolution": (lambda: nn.Conv2d(3, 4, 3)(MAPS), 2 * 4 * 36 * 27),
    "depthwise": (lambda: nn.Conv2d(3, 6, 3, groups=3)(MAPS), 2 * 6 * 36 * 9),
    "transposed": (lambda: nn.ConvTranspose2d(3, 4, 3)(MAPS), 2 * 3 * 64 * 36),
    "linear": (lambda: nn.Linear(8, 5)(TOKENS), 2 * 7 * 40),
    "linear without bias": (lambda: nn.Linear(8, 5, bias=False)(TOKENS), 2 * 7 * 40),
    "matrix and vector": (lambda: TOKENS[0] @ torch.ones(8), 56),
    "einsum": (lambda: torch.einsum("nqc,nkc->nqk", TOKENS, TOKENS), 2 * 7 * 7 * 8),
    "attention": (lambda: F.scaled_dot_product_attention(QUERIES, KEYS, VALUES), 2 * 4 * 5 * 6 * 11),
    "causal attention": (
        lambda: F.scaled_dot_product_attention(QUERIES, QUERIES, QUERIES, is_causal=True), 2 * 4 * 5 * 5 * 16
    ),
    "LSTM": (lambda: nn.LSTM(8, 5, 2, batch_first=True)(TOKENS), 2 * 7 * (20 * 8 + 25 * 4 + 20 * 5 * 2)),
    "GRU in both directions": (lambda: nn.GRU(8, 5, bidirectional=True)(TOKENS), 2 * 7 * 15 * 13 * 2),
    "values alone": (lambda: torch.relu(MAPS * 2 + 1).mean(), 0),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_counts(name: str) -> None:
    run, expected = CASES[name]
    with torch.no_grad(), MacCounter() as counter:
        run()
    assert counter.total == expected


@pytest.mark.parametrize("kernel", ["_for_cpu", "", "_efficient", "_cudnn"])
def test_every_kernel_of_attention(kernel: str) -> None:
    name = f"_scaled_dot_product_flash_attention{kernel}"
    assert macs_of(name, (QUERIES, KEYS, VALUES), None) == 2 * 4 * 5 * 6 * 11
    assert macs_of(f"{name}_backward", (QUERIES, KEYS, VALUES), None) == 0
