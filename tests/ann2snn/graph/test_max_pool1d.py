"""Max pooling along one axis leaves the length of its input free."""

from __future__ import annotations

import pytest
import torch
from captured import captured
from torch import Tensor, nn
from torch.nn import functional as F

from sj_parallel_conversion.ann2snn.graph.max_pool1d import settings

SIGNALS = torch.randn(4, 2, 64)


class Function(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool1d(x, kernel_size=3, stride=2, padding=1)


@pytest.mark.parametrize(
    "pool", [nn.MaxPool1d(4), nn.MaxPool1d(3, 2, 1), nn.MaxPool1d((3,), stride=(1,), dilation=2), Function()]
)
def test_the_length_stays_free(pool: nn.Module) -> None:
    ann = nn.Sequential(nn.Conv1d(2, 3, 5, stride=2), nn.ReLU(), pool, nn.AdaptiveAvgPool1d(2)).eval()
    model, signature = captured(ann, SIGNALS)
    assert isinstance(signature.sizes.sizes[0][2], str)
    assert any(isinstance(module, nn.MaxPool1d) for module in model.modules())
    for length in (63, 64, 200):
        x = torch.randn(3, 2, length)
        torch.testing.assert_close(model(x)[0], ann(x))


def test_a_layer_and_a_function_keep_their_names() -> None:
    model, _ = captured(nn.Sequential(nn.Conv1d(2, 3, 5), nn.ReLU(), nn.MaxPool1d(2), Function()), SIGNALS)
    names = [node.target for node in model.graph.nodes if node.op == "call_module"]
    assert names[2:] == ["2", "3"]


def test_torch_does_what_the_operator_cannot() -> None:
    x = SIGNALS
    assert settings((x, 3), {}) == (x, 3, 3, 0, 1, False)
    assert settings((x, (4,), [2], 1), {"dilation": 2}) == (x, 4, 2, 1, 2, False)
    assert settings((x, 3), {"ceil_mode": True}) is None and settings((x, 3), {"return_indices": True}) is None
    ann = nn.Sequential(nn.Conv1d(2, 3, 5), nn.ReLU(), nn.MaxPool1d(7, ceil_mode=True)).eval()
    torch.testing.assert_close(captured(ann, SIGNALS)[0](SIGNALS)[0], ann(SIGNALS))


class PooledWeight(nn.Module):
    """Pools a tensor of its own, which is a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.weight = nn.Linear(64, 4), nn.Parameter(torch.randn(1, 1, 8))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.linear(x)) + F.max_pool1d(self.weight, 2)


def test_a_constant_is_pooled_once() -> None:
    ann = PooledWeight().eval()
    torch.testing.assert_close(captured(ann, SIGNALS)[0](SIGNALS)[0], ann(SIGNALS))
