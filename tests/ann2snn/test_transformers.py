"""Attention, gates and normalisations with neurons: what becomes of them, and that all executions agree."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sj_parallel_conversion as sjpc

LENGTH, HEADS, FEATURES = 6, 2, 8
TOKENS = torch.randn(8, LENGTH, FEATURES, generator=torch.Generator().manual_seed(0))
BIAS = torch.randn(HEADS, LENGTH, LENGTH, generator=torch.Generator().manual_seed(1))
SEEN = torch.ones(LENGTH, LENGTH).tril().bool()
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


class Attention(nn.Module):
    """
    Queries, keys and values of one layer, and a layer behind them.

    :param attend: from heads ``[N, heads, length, features]`` to what they attend to
    :param groups: how many heads of queries share keys and values
    """

    def __init__(self, attend: Attend, groups: int = 1) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.attend, self.sizes = attend, (FEATURES, FEATURES // groups, FEATURES // groups)
        self.norm, self.qkv, self.proj = nn.LayerNorm(FEATURES), nn.Linear(FEATURES, sum(self.sizes)), nn.Linear(8, 8)
        nn.init.normal_(self.qkv.weight)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (y.unflatten(2, (-1, 4)).transpose(1, 2) for y in self.qkv(self.norm(x)).split(self.sizes, 2))
        return x + self.proj(F.relu(self.attend(q, k, v).transpose(1, 2).flatten(2)))


def by_hand(change: Callable[[Tensor], Tensor] = lambda s: s) -> Attend:
    return lambda q, k, v: F.dropout(change(q @ k.transpose(-2, -1) / 2).softmax(-1), 0.5, False) @ v


def batched(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = torch.bmm(q.flatten(0, 1), k.flatten(0, 1).transpose(1, 2)).softmax(-1)
    return torch.bmm(scores, v.flatten(0, 1)).unflatten(0, (-1, HEADS))


def in_words(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.einsum("nhij,nhjd->nhid", torch.einsum("nhid,nhjd->nhij", q, k).softmax(-1), v)


sdpa = F.scaled_dot_product_attention
ATTENTIONS: dict[str, tuple[Attend, int]] = {
    "plain": (sdpa, 1),
    "causal": (lambda q, k, v: sdpa(q, k, v, is_causal=True), 1),
    "mask of bools": (lambda q, k, v: sdpa(q, k, v, SEEN), 1),
    "bias and scale": (lambda q, k, v: sdpa(q, k, v, BIAS, scale=0.3), 1),
    "grouped queries": (lambda q, k, v: sdpa(q, k, v, is_causal=True, enable_gqa=True), 2),
    "by hand": (by_hand(), 1),
    "by hand, masked": (by_hand(lambda s: s.masked_fill(~SEEN, float("-inf"))), 1),
    "by hand, relative positions": (by_hand(lambda s: s + BIAS), 1),
    "batched products": (batched, 1),
    "in words": (in_words, 1),
}


def rms_norm(x: Tensor) -> Tensor:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)


def layer_norm(x: Tensor) -> Tensor:
    d = x - x.mean(-1, keepdim=True)
    return d / torch.sqrt((d * d).mean(-1, keepdim=True) + 1e-5)


def softmax(x: Tensor) -> Tensor:
    e = torch.exp(x - x.amax(-1, keepdim=True))
    return e / e.sum(-1, keepdim=True)


def response_norm(x: Tensor) -> Tensor:
    strength = x.norm(dim=1, keepdim=True)
    return x * (strength / (strength.mean(-1, keepdim=True) + 1e-6))


NORMS = {
    "RMSNorm by hand": rms_norm, "LayerNorm by hand": layer_norm, "softmax by hand": softmax,
    "response norm": response_norm, "L2": lambda x: F.normalize(x, dim=-1), "RMSNorm": nn.RMSNorm(8),
    "LayerNorm": nn.LayerNorm(8), "softmax": lambda x: x.softmax(1), "GroupNorm": nn.GroupNorm(2, LENGTH),
}  # fmt: skip


class Gated(nn.Module):
    """Products of values: SwiGLU, and a gate from the mean, as in squeeze and excitation."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.gate, self.up, self.down = nn.Linear(8, 16), nn.Linear(8, 16), nn.Linear(16, 8)
        self.squeeze, self.head = nn.Linear(8, 8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.down(F.silu(self.gate(x)) * self.up(x))
        return self.head(x * torch.sigmoid(self.squeeze(x.mean(1, keepdim=True))))


class Around(nn.Module):
    """
    A function between two layers.

    :param function: of ``[N, length, features]``
    """

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.before, self.function, self.behind = nn.Linear(8, 8), function, nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.behind(self.function(self.before(x))))


def nets() -> dict[str, nn.Module]:
    found = {name: Attention(*arguments) for name, arguments in ATTENTIONS.items()}
    found |= {name: Around(function) for name, function in NORMS.items()} | {"gated": Gated()}
    return {name: net.eval() for name, net in found.items()}


def convert(ann: nn.Module, **options: object) -> sjpc.SpikingNetwork:
    options = {"mode": "css", "calibration": "none", "show_progress": False, "strict": True} | options
    return sjpc.ParallelConverter([TOKENS], **options).convert(ann)


@cache
def converted(name: str) -> sjpc.SpikingNetwork:
    return convert(nets()[name], time_steps=12, threshold="max")


def error(value: Tensor, expected: Tensor) -> float:
    return float((value - expected).norm() / expected.norm())


@pytest.mark.parametrize("name", ATTENTIONS)
def test_both_products_of_an_attention_get_spikes(name: str) -> None:
    report = sjpc.inspect(converted(name), show=False)
    products = [row for row in report.rows if row.kind == "product"]
    assert len(products) == 2 and all(row.spikes_in and row.macs for row in products)
    assert report.share == report.share_after_input == 1 or report.input_macs
    assert not report.analogue and not report.graded and len(report.normalisations) == (1 if name == "in words" else 2)


def test_one_neuron_by_channel_serves_queries_keys_and_values() -> None:
    net = converted("causal").net
    node = net.get_submodule("qkv_output").node
    assert node.v_threshold.shape == (24,) and node.folded_input, "it reads what the layer makes"


@pytest.mark.parametrize("name", NORMS)
def test_a_normalisation_is_one_operation(name: str) -> None:
    report = sjpc.inspect(converted(name), show=False)
    assert [row.kind for row in report.rows if row.kind in ("normalisation", "analogue")] == ["normalisation"]
    assert f"{len(report.normalisations)} normalisations" in str(report)


def test_a_gate_is_a_product_of_spikes() -> None:
    report = sjpc.inspect(converted("gated"), show=False)
    products = {row.name: row.receives for row in report.rows if row.kind == "product"}
    assert len(products) == 2 and set(products.values()) == {("spikes",)}


@pytest.mark.parametrize("name", ["causal", "by hand, relative positions", "in words", "gated", "L2"])
@torch.no_grad()
def test_all_executions_agree(name: str) -> None:
    prepared = sjpc.ParallelConverter([TOKENS], calibration="none", show_progress=False).prepare(nets()[name])
    for mode, time_steps in (("parallel", 3), ("spikepack", 2), ("css", 2), ("css", 4), ("css", 8)):
        snn = prepared.convert(mode=mode, time_steps=time_steps, strict=True)
        spikes = snn.predict(TOKENS)
        snn.execution = "packed"
        assert torch.equal(snn.predict(TOKENS), spikes)
        snn.execution = "stepwise"
        assert error(snn.predict(TOKENS), spikes) < 1e-5


@pytest.mark.parametrize("name", nets())
@torch.no_grad()
def test_many_levels_approach_the_ann(name: str) -> None:
    assert error(converted(name).predict(TOKENS), nets()[name](TOKENS)) < 0.01


@torch.no_grad()
def test_digit_by_digit() -> None:
    snn = convert(Attention(sdpa).eval(), mode="spikepack")
    spikes = snn.predict(TOKENS)
    snn.execution = "serial"
    assert error(snn.predict(TOKENS), spikes) < 1e-5


@torch.no_grad()
def test_synaptic_operations_of_a_product() -> None:
    snn = convert(nets()["plain"], time_steps=4)
    trains = {}
    for name, module in snn.net.named_modules():
        if isinstance(module, sjpc.SpikingActivation):
            module.node.register_forward_hook(lambda m, args, train, name=name: trains.update({name: train}))
    count = sjpc.count_operations(snn, [TOKENS], show_progress=False)
    snn.predict(TOKENS)
    rows = {row.operation: row for row in count.rows if row.name.endswith("_scores")}
    queries_and_keys = trains["qkv_output"][..., :16].count_nonzero() / len(TOKENS)
    assert rows["matmul"].received == pytest.approx(float(queries_and_keys))
    assert rows["matmul"].synops == pytest.approx(LENGTH * float(queries_and_keys)), "each meets a row of the others"
    assert rows["matmul"].macs == 0 < rows["matmul"].ann_macs
    snn.execution = "stepwise"
    assert sjpc.count_operations(snn, [TOKENS], show_progress=False).rows == count.rows


@pytest.mark.parametrize("name", ["grouped queries", "RMSNorm by hand", "gated"])
@torch.no_grad()
def test_files_exports_and_new_weights(name: str, tmp_path: Path) -> None:
    ann = nets()[name]
    snn = convert(ann)
    expected, table = snn.predict(TOKENS), sjpc.inspect(snn, show=False)
    sjpc.save(snn, tmp_path / "snn")
    loaded = sjpc.load(tmp_path / "snn")
    assert torch.equal(loaded.predict(TOKENS), expected) and sjpc.inspect(loaded, show=False) == table
    assert error(sjpc.to_torch(snn)(TOKENS), expected) < 1e-6
    assert torch.equal(snn.load_ann(ann).predict(TOKENS), expected)


@torch.no_grad()
def test_a_row_of_which_nothing_counts_is_0_as_in_torch() -> None:
    mask = SEEN.clone()
    mask[2] = False
    ann = Attention(lambda q, k, v: sdpa(q, k, v, mask)).eval()
    assert error(convert(ann, time_steps=12, threshold="max").predict(TOKENS), ann(TOKENS)) < 0.01


@torch.no_grad()
def test_without_the_option_attention_stays_as_it_is() -> None:
    snn = convert(nets()["plain"], strict=False)
    report = sjpc.inspect(snn, show=False)
    assert [row.operation for row in report.analogue] == ["scaled_dot_product_attention"]
    assert not report.normalisations and len(snn.neurons()) == 1


def test_attention_with_dropout_is_refused_by_name() -> None:
    with pytest.raises(sjpc.ConversionError, match="scaled_dot_product_attention"):
        convert(Attention(lambda q, k, v: sdpa(q, k, v, dropout_p=0.1) * 0 + q).eval())
