"""Attention that a module calls as a function, in the form of Hugging Face's models: as a part, and with a cache."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sj_parallel_conversion as sjpc

TOKENS, FEATURES, HEADS, GROUPS = 40, 16, 4, 2
IDS = torch.randint(0, TOKENS, (24, 12), generator=torch.Generator().manual_seed(0))
SEEN = torch.ones_like(IDS)
SEEN[::3, :4] = 0
PARTS = ["blocks.*", "head"]


class Cache:
    """Keys and values of earlier tokens, one pair a block: an object that the blocks write to."""

    def __init__(self) -> None:
        self.pairs: dict[int, tuple[Tensor, Tensor]] = {}

    def update(self, k: Tensor, v: Tensor, block: int) -> tuple[Tensor, Tensor]:
        if block in self.pairs:
            k, v = (torch.cat(pair, 2) for pair in zip(self.pairs[block], (k, v), strict=True))
        self.pairs[block] = k, v
        return k, v

    @property
    def length(self) -> int:
        return self.pairs[0][0].shape[2] if self.pairs else 0


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Its arguments depend on whether there is a mask, and on how many tokens there are."""
    length, options = q.shape[2], {}
    if mask is None:
        options = {"is_causal": length > 1, "enable_gqa": True}
    elif length == 1:  # the queries of a group take the place of tokens
        q = q.unflatten(1, (GROUPS, -1)).flatten(2, 3)
    else:
        k, v = (x.repeat_interleave(HEADS // GROUPS, 1) for x in (k, v))
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=0.5, **options)
    return y.reshape(-1, HEADS, length, FEATURES // HEADS).transpose(1, 2).flatten(2)


class Attention(nn.Module):
    """Fewer keys and values than queries."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number, shared = number, FEATURES * GROUPS // HEADS
        self.q_proj, self.o_proj = nn.Linear(FEATURES, FEATURES), nn.Linear(FEATURES, FEATURES)
        self.k_proj, self.v_proj = nn.Linear(FEATURES, shared), nn.Linear(FEATURES, shared)

    def forward(self, x: Tensor, mask: Tensor | None, cache: Cache | None) -> Tensor:
        layers = (self.q_proj, self.k_proj, self.v_proj)
        q, k, v = (f(x).unflatten(2, (-1, FEATURES // HEADS)).transpose(1, 2) for f in layers)
        if cache is not None:
            k, v = cache.update(k, v, self.number)
        return self.o_proj(attend(q, k, v, mask))


class Block(nn.Module):
    """Attention and an MLP. It is given the cache, so it cannot be a part as a whole."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(FEATURES), nn.LayerNorm(FEATURES)
        self.attn = Attention(number)
        self.mlp = nn.Sequential(nn.Linear(FEATURES, 32), nn.GELU(), nn.Linear(32, FEATURES))

    def forward(self, x: Tensor, mask: Tensor | None, cache: Cache | None) -> Tensor:
        x = x + self.attn(self.ln_1(x), mask, cache)
        return x + self.mlp(self.ln_2(x))


class GPT(nn.Module):
    """A language model that returns its cache."""

    def __init__(self, returns_cache: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.returns_cache = returns_cache
        self.wte, self.wpe = nn.Embedding(TOKENS, FEATURES), nn.Embedding(256, FEATURES)
        self.blocks = nn.ModuleList(map(Block, range(2)))
        self.ln_f, self.head = nn.LayerNorm(FEATURES), nn.Linear(FEATURES, TOKENS, bias=False)
        nn.init.normal_(self.head.weight)

    def forward(self, input_ids: Tensor, seen: Tensor | None = None, cache: Cache | None = None) -> dict[str, object]:
        cache = Cache() if cache is None and self.returns_cache else cache
        length, start = input_ids.shape[1], cache.length if cache else 0
        x = self.wte(input_ids) + self.wpe(torch.arange(start, start + length, device=input_ids.device))
        mask = None
        if seen is not None:
            causal = torch.ones(length, start + length).tril(start).bool()
            mask = causal & seen[:, None, None].bool()
        for block in self.blocks:
            x = block(x, mask, cache)
        return {"logits": self.head(self.ln_f(x)), "cache": cache}

    @torch.no_grad()
    def generate(self, ids: Tensor, count: int, use_cache: bool, seen: Tensor | None = None) -> Tensor:
        cache = Cache() if use_cache else None
        for _ in range(count):
            output = self(ids[:, cache.length if cache else 0 :], seen, cache)
            ids = torch.cat([ids, output["logits"][:, -1:].argmax(2)], 1)
            seen = None if seen is None else torch.cat([seen, torch.ones_like(seen[:, :1])], 1)
        return ids


def batches(masked: bool = False) -> list[dict[str, Tensor]]:
    pairs = zip(IDS.split(8), SEEN.split(8), strict=True)
    return [{"input_ids": ids} | ({"seen": seen} if masked else {}) for ids, seen in pairs]


def converter(masked: bool = False, **options: object) -> sjpc.ParallelConverter:
    options = {"mode": "css", "time_steps": 4, "strict": True, "show_progress": False} | options
    return sjpc.ParallelConverter(batches(masked), **options)


def logits(model: nn.Module, **call: Tensor) -> Tensor:
    with torch.no_grad():
        return model(**call)["logits"]


def hooks(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@pytest.mark.parametrize("masked", [False, True])
def test_a_cache_gives_the_same_200_tokens(masked: bool) -> None:
    snn = converter(masked).convert(GPT().eval(), submodules=PARTS)
    snn.execution = "packed"
    assert len(snn.parts) == 13 and "blocks.1.attn.scaled_dot_product_attention" in snn.parts
    report = sjpc.inspect(snn, show=False)
    assert report.share == 1 and len([row for row in report.rows if row.kind == "product"]) == 4
    prompt, seen = IDS[:3, :5], SEEN[:3, :5] if masked else None
    tokens = snn.generate(prompt, 200, True, seen)
    assert torch.equal(tokens[:, :15], snn.model.generate(prompt, 10, False, seen))
    seen = seen if seen is None else torch.cat([seen, torch.ones(3, 199, dtype=torch.long)], 1)
    at_once = {"input_ids": tokens[:, :-1]} | ({"seen": seen} if masked else {})
    assert torch.equal(logits(snn, **at_once).argmax(2)[:, 4:], tokens[:, 5:])
    assert tokens[:, 5:].unique().numel() > 3, "it does not say the same all the time"


@pytest.mark.parametrize("masked", [False, True])
def test_many_levels_approach_the_ann(masked: bool) -> None:
    ann = GPT().eval()
    snn = converter(masked, time_steps=12, threshold="max", calibration="none").convert(ann, submodules=PARTS)
    for batch in batches(masked):
        expected = logits(ann, **batch)
        assert (logits(snn, **batch) - expected).norm() < 0.01 * expected.norm()


def test_the_ann_has_no_new_modules() -> None:
    ann = GPT().eval()
    before = copy.deepcopy(ann)
    converter().convert(ann, submodules=PARTS)
    assert [name for name, _ in ann.named_modules()] == [name for name, _ in before.named_modules()]
    assert hooks(ann) == 0 and torch.equal(logits(ann, **batches()[0]), logits(before, **batches()[0]))


def test_what_is_no_part_is_as_before() -> None:
    snn = converter().convert(GPT().eval(), submodules=["blocks.0.mlp", "head"])
    assert list(snn.parts) == ["blocks.0.mlp", "head"]
    assert hooks(snn.model) == 0 and not any("scaled" in name for name, _ in snn.model.named_modules())
    snn = converter(strict=False).convert(GPT().eval(), submodules=["blocks.0.*"])
    assert list(snn.parts) == ["blocks.0.mlp"], "without spikes for all products, attention is no part"


@torch.no_grad()
def test_files_new_weights_and_prepared_parts(tmp_path: Path) -> None:
    ann = GPT().eval()
    snn = converter().prepare(ann, submodules=PARTS).convert(time_steps=6)
    expected = logits(snn, **batches()[0])
    sjpc.save(snn, tmp_path / "snn")
    loaded = sjpc.load(tmp_path / "snn", model=ann)
    assert torch.equal(logits(loaded, **batches()[0]), expected) and hooks(ann) == 0
    assert torch.equal(loaded.generate(IDS[:1], 5, True), snn.generate(IDS[:1], 5, False))
    assert torch.equal(logits(copy.deepcopy(snn), **batches()[0]), expected)
    assert torch.equal(logits(snn.load_ann(ann), **batches()[0]), expected)
    snn.execution = "stepwise"
    torch.testing.assert_close(logits(snn, **batches()[0]), expected, rtol=1e-4, atol=1e-4)


def test_an_object_with_tensors_is_no_argument_of_a_part() -> None:
    with pytest.raises(sjpc.ConversionError, match=r"'cache' is a Cache that holds tensors.*the layers inside"):
        converter().convert(GPT().eval(), submodules=["blocks.0"])


def test_a_returned_object_with_tensors_is_none() -> None:
    with pytest.warns(UserWarning, match="returns a Cache, and the converted network gives None"):
        snn = converter().convert(GPT().eval())
    assert snn.predict(IDS[:2])["cache"] is None
