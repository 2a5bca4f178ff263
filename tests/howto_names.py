"""What the how-to pages take for granted: models and data of a reader, small."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class MyAttention(nn.Module):
    """A module that a reader keeps whole."""


@dataclass
class Scores:
    """What :class:`Bert` returns."""

    logits: Tensor


class Bert(nn.Module):
    """Takes token ids, a mask, and labels for a loss."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.layer, self.head = nn.Embedding(20, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor | None = None) -> Scores:
        y = F.gelu(self.layer(self.words(input_ids))) * attention_mask.unsqueeze(2)
        return Scores(self.head(y.mean(1)))


class Attend(nn.Module):
    """Causal attention."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)


class Block(nn.Module):
    """Attention and an MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.attend, self.proj = nn.Linear(8, 24), Attend(), nn.Linear(8, 8)
        self.mlp = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.proj(self.attend(*self.qkv(x).chunk(3, 2)))
        return x + self.mlp(x)


class GPT(nn.Module):
    """Continues token ids."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.blocks, self.head = nn.Embedding(20, 8), nn.ModuleList([Block(), Block()]), nn.Linear(8, 20)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.words(ids)
        for block in self.blocks:
            x = block(x)
        return self.head(x)

    @torch.no_grad()
    def generate(self, ids: Tensor) -> Tensor:
        for _ in range(4):
            ids = torch.cat([ids, self(ids)[:, -1:].argmax(2)], 1)
        return ids


class Detector(nn.Module):
    """Finds as many boxes as there are bright corners, so that it cannot be captured as a whole."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU())
        self.rpn = nn.ModuleDict({"head": nn.ModuleDict({"conv": nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU())})})
        self.roi_heads = nn.ModuleDict({"box_head": nn.Sequential(nn.Linear(8, 8), nn.ReLU())})

    def forward(self, images: Tensor) -> list[Tensor]:
        maps = self.rpn["head"]["conv"](self.backbone(images))
        corners = self.roi_heads["box_head"](maps[:, :, 0, 0])
        return [boxes[: int(boxes.max() > 0) + 1] for boxes in corners.unsqueeze(1).expand(-1, 2, -1)]


def names_for(page: str) -> dict[str, object]:
    """
    :param page: such as ``"parts"``
    :return: what its code takes for granted besides the names of the page First conversion
    """
    torch.manual_seed(0)
    ids, images = torch.randint(20, (8, 6)), torch.randn(8, 3, 12, 12)
    found: dict[str, dict[str, object]] = {
        "activations": {"MyAttention": MyAttention},
        "inputs": {
            "bert": Bert().eval(), "texts": [(ids, torch.ones_like(ids), torch.zeros(8).long())], "ids": ids,
            "mask": torch.ones_like(ids),
        },
        "transformers": {"gpt": GPT().eval(), "texts": [ids], "prompt": ids[:2]},
        "parts": {"detector": Detector().eval(), "dataloader": [images], "images": images},
    }  # fmt: skip
    return found.get(page, {})
