"""Tensors that do not depend on the input may be read as numbers; those that do are never taken for them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from captured import captured
from torch import Tensor, nn
from torch.nn import functional as F

import sj_parallel_conversion as sjpc

TOKENS = torch.randn(4, 6, generator=torch.Generator().manual_seed(0)) + 1


class Reads(nn.Module):
    """Reads a tensor before its layers."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.function, self.a, self.b = function, nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.relu(self.a(self.function(x))))


def written(x: Tensor, write: Callable[[Tensor, Tensor], object]) -> Tensor:
    """Depends on what ``write`` has written to a tensor of zeros."""
    zeros = torch.zeros(3)
    write(zeros, x)
    return x * 2 if zeros.sum() != 0 else x


def causal(x: Tensor) -> Tensor:
    mask = torch.full((6, 6), 1.0).triu(1)
    mask.add_(1)
    return x @ mask if bool((mask > 0).all()) else x


READ: dict[str, Callable[[Tensor], Tensor]] = {
    "mask": causal,
    "range": lambda x: x * torch.arange(x.shape[1]).max().item(),
    "list": lambda x: x * sum(torch.tensor([1, 2, 3]).tolist()),
    "chosen": lambda x: x * torch.where(torch.tensor([True, False]), torch.zeros(2), 2.0).sum().item(),
    "item": lambda x: written(x, lambda zeros, x: zeros.__setitem__(0, 5)),
    "in place": lambda x: written(x, lambda zeros, x: F.relu(zeros.sub_(1), True)),
}


@pytest.mark.parametrize("name", READ)
@torch.no_grad()
def test_made_of_numbers(name: str) -> None:
    ann = Reads(READ[name]).eval()
    model, signature = captured(ann, TOKENS)
    for n in (4, 1, 7):
        x = torch.ones(n, 6)
        torch.testing.assert_close(signature.build(model(*signature.batch((x,), {}).tensors)), ann(x))


WRITTEN: dict[str, Callable[[Tensor, Tensor], object]] = {
    "item": lambda zeros, x: zeros.__setitem__(0, x.mean()),
    "view": lambda zeros, x: zeros[0].copy_(x.mean()),
    "operator": lambda zeros, x: zeros[1:].__iadd__(x.mean()),
    "out": lambda zeros, x: torch.add(zeros, x.mean(), out=zeros),
    "data": lambda zeros, x: zeros.data.__setitem__(0, x.mean()),
    "list": lambda zeros, x: zeros.unbind()[0].add_(x.mean()),
    "index": lambda zeros, x: zeros.index_add_(0, torch.tensor([0]), x.mean()[None]),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_written_to_with_the_input(name: str) -> None:
    ann = Reads(lambda x: written(x, WRITTEN[name])).eval()
    with pytest.raises(sjpc.ConversionError, match="data-dependent"):
        captured(ann, TOKENS)


class Translates(nn.Module):
    """As in translation: a mask hides later words. Torch compares it with one of its own."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Transformer(8, 2, 1, 1, 16, batch_first=True)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(target.shape[1])
        return self.layers(source, target, tgt_mask=mask)


@torch.no_grad()
def test_the_mask_of_a_transformer() -> None:
    ann = Translates().eval()
    source, target = torch.randn(4, 6, 8), torch.randn(4, 5, 8)
    model, signature = captured(ann, {"source": source, "target": target})
    for n in (4, 1):
        batch = signature.batch((source[:n] * 2, target[:n]), {})
        torch.testing.assert_close(signature.build(model(*batch.tensors)), ann(source[:n] * 2, target[:n]))
    with pytest.raises(sjpc.DataError, match=r"target\.shape\[1\] is 4, and has to be 5"):
        signature.batch((source, target[:, :4]), {})
