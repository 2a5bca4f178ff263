"""Torch's own transformer layers: converted networks are copied and saved as others are."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from saved import converted, round_trip, same
from torch import Tensor, nn

import sj_parallel_conversion as sjpc


class Decodes(nn.Module):
    """Attends to a memory."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        layer = nn.TransformerDecoderLayer(8, 2, 16, batch_first=True)
        layers = {"layer": lambda: layer, "decoder": lambda: nn.TransformerDecoder(layer, 2),
                  "transformer": lambda: nn.Transformer(8, 2, 1, 1, 16, batch_first=True)}  # fmt: skip
        self.layers, self.head, self.kind = layers[kind](), nn.Linear(8, 3), kind

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        inputs = (memory, x) if self.kind == "transformer" else (x, memory)
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
        return self.head(self.layers(*inputs, tgt_mask=mask))


INPUTS = {"x": torch.randn(4, 5, 8), "memory": torch.randn(4, 6, 8)}


@pytest.mark.parametrize("kind", ["layer", "decoder", "transformer"])
@pytest.mark.parametrize("spiking_inputs", [False, True])
@pytest.mark.filterwarnings("ignore:only ")
@torch.no_grad()
def test_copies_and_files(kind: str, spiking_inputs: bool, tmp_path: Path) -> None:
    snn = converted(Decodes(kind).eval(), INPUTS, mode="css", time_steps=12, spiking_inputs=spiking_inputs)
    y = snn.predict(**INPUTS)
    expected = Decodes(kind).eval()(**INPUTS)
    torch.testing.assert_close(y, expected, rtol=0, atol=0.005)
    with torch.enable_grad():
        snn.train()
        snn(**INPUTS)  # what a step leaves in the neurons
    for other in (copy.deepcopy(snn), pickle.loads(pickle.dumps(snn)), round_trip(snn, tmp_path)):
        assert same(other.eval().predict(**INPUTS), y)


@pytest.fixture
def whole_attention() -> Iterator[None]:
    """Attention modules stay as they are."""
    sjpc.register_leaf(nn.MultiheadAttention)
    yield
    sjpc.unregister_leaf(nn.MultiheadAttention)


@pytest.mark.usefixtures("whole_attention")
@pytest.mark.filterwarnings("ignore:.*whose code is not in the file")
@pytest.mark.filterwarnings("ignore:only ")
@torch.no_grad()
def test_whole_attention(tmp_path: Path) -> None:
    snn = converted(Decodes("layer").eval(), INPUTS)
    assert same(round_trip(snn, tmp_path).predict(**INPUTS), snn.predict(**INPUTS))
