"""A model in the form of GPT-2 whose layers are parts: it keeps its class, and so its cache of keys and values."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sj_parallel_conversion as sjpc

TOKENS, FEATURES, HEADS = 40, 16, 2
IDS = torch.randint(0, TOKENS, (24, 10), generator=torch.Generator().manual_seed(0))
Cache = list[tuple[Tensor, Tensor]]


class Attend(nn.Module):
    """Attention as a module, so that it can be a part."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, mask)


class Block(nn.Module):
    """Attention and an MLP; keys and values of earlier tokens may be given."""

    def __init__(self) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(FEATURES), nn.LayerNorm(FEATURES)
        self.qkv, self.proj, self.attend = nn.Linear(FEATURES, 3 * FEATURES), nn.Linear(FEATURES, FEATURES), Attend()
        self.mlp = nn.Sequential(nn.Linear(FEATURES, 32), nn.GELU(), nn.Linear(32, FEATURES))

    def forward(self, x: Tensor, mask: Tensor, past: tuple[Tensor, Tensor] | None) -> tuple[Tensor, tuple]:
        q, k, v = (y.unflatten(2, (HEADS, -1)).transpose(1, 2) for y in self.qkv(self.ln_1(x)).chunk(3, 2))
        if past is not None:
            k, v = torch.cat([past[0], k], 2), torch.cat([past[1], v], 2)
        x = x + self.proj(self.attend(q, k, v, mask).transpose(1, 2).flatten(2))
        return x + self.mlp(self.ln_2(x)), (k, v)


class GPT(nn.Module):
    """Two blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(TOKENS, FEATURES), nn.Embedding(64, FEATURES)
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.ln_f, self.head = nn.LayerNorm(FEATURES), nn.Linear(FEATURES, TOKENS, bias=False)

    def forward(self, ids: Tensor, cache: Cache | None = None) -> tuple[Tensor, Cache]:
        start, length = cache[0][0].shape[2] if cache else 0, ids.shape[1]
        x = self.wte(ids) + self.wpe(torch.arange(start, start + length))
        mask = torch.ones(1, 1, length, start + length).tril(start).bool()
        seen: Cache = []
        for i, block in enumerate(self.blocks):
            x, pair = block(x, mask, cache[i] if cache else None)
            seen.append(pair)
        return self.head(self.ln_f(x)), seen

    @torch.no_grad()
    def generate(self, ids: Tensor, count: int, use_cache: bool) -> Tensor:
        cache, shown = None, ids
        for _ in range(count):
            logits, seen = self(shown, cache)
            new = logits[:, -1:].argmax(2)
            ids = torch.cat([ids, new], 1)
            cache, shown = (seen, new) if use_cache else (None, ids)
        return ids


def test_generation_with_a_cache_gives_the_same_tokens() -> None:
    torch.manual_seed(0)
    ann = GPT().eval()
    converter = sjpc.ParallelConverter(IDS.split(8), mode="css", time_steps=4, strict=True, show_progress=False)
    parts = [f"blocks.*.{name}" for name in ("qkv", "attend", "proj", "mlp")]
    snn = converter.convert(ann, submodules=[*parts, "head"])
    assert len(snn.parts) == 9
    report = sjpc.inspect(snn, IDS[:1], show=False)
    assert report.share == 1 and len([row for row in report.rows if row.kind == "product"]) == 4
    prompts = IDS[:3, :4]
    tokens = snn.model.generate(prompts, 40, use_cache=True)
    assert torch.equal(tokens, snn.model.generate(prompts, 40, use_cache=False))
    assert tokens.unique().numel() > 3, "it does not say the same all the time"
