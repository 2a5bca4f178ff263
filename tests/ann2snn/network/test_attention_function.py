"""What stands for the attention function while a module runs: it computes the same, and is left in any case."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sj_parallel_conversion.ann2snn.data.inputs import Call
from sj_parallel_conversion.ann2snn.network import attention_calls


class Calls(nn.Module):
    """Calls the function, and so does a module in it."""

    def __init__(self, inner: nn.Module | None = None, **options: object) -> None:
        super().__init__()
        self.inner, self.options = inner, options

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if self.inner is not None:
            v = v + self.inner(q, k, v)
        return F.scaled_dot_product_attention(q, k, v, **self.options)


NOTHING_SEEN = torch.ones(5, 5).tril(-1).bool()
OPTIONS = {
    "plain": {}, "causal": {"is_causal": True}, "scale": {"scale": 0.3}, "mask of bools": {"attn_mask": NOTHING_SEEN},
    "bias": {"attn_mask": torch.randn(5, 5)}, "one bias a head": {"attn_mask": torch.randn(4, 5, 5)},
    "infinite bias": {"attn_mask": torch.zeros(5, 5).masked_fill(~NOTHING_SEEN, -torch.inf)},
}  # fmt: skip


@pytest.mark.parametrize("name", OPTIONS)
@torch.no_grad()
def test_the_same_attention_as_a_module(name: str) -> None:
    torch.manual_seed(0)
    call = [torch.randn(3, 4, 5, 8) for _ in range(3)]
    model = Calls(Calls(is_causal=True), **OPTIONS[name])
    expected = model(*call)
    added = attention_calls.add_attention_calls(model, Call(tuple(call), {}))
    assert added == ["scaled_dot_product_attention", "inner.scaled_dot_product_attention"]
    met: list[str] = []
    for at in added:
        model.get_submodule(at).register_forward_hook(lambda *_, at=at: met.append(at))
    torch.testing.assert_close(model(*call), expected)
    assert met == added[::-1]
    with pytest.raises(TypeError):
        model(call[0], call[1], None)
    assert not attention_calls._entered(), "what fails is left as well"
    attention_calls.remove_submodules(model, added)
    assert torch.equal(model(*call), expected) and len(met) == 2
    assert not any([*m._forward_hooks, *m._forward_pre_hooks] for m in model.modules())


class Interrupted(Calls):
    """The user presses Ctrl-C while it runs."""

    interrupts = False

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if self.interrupts:
            raise KeyboardInterrupt
        return super().forward(q, k, v)


@pytest.mark.parametrize("below_another_mode", [False, True])
@torch.no_grad()
def test_an_interrupted_call_does_not_change_what_others_compute(below_another_mode: bool) -> None:
    call = tuple(torch.randn(3, 2, 2, 4, 4).unbind())
    model = Calls(Interrupted())
    expected = model(*call)
    added = attention_calls.add_attention_calls(model, Call(call, {}))
    met: list[object] = []
    for at in added:
        model.get_submodule(at).register_forward_hook(lambda module, *_: met.append(module))
    model.inner.interrupts = True
    with pytest.raises(KeyboardInterrupt):
        model(*call)
    F.scaled_dot_product_attention(*call)
    assert not met, "another model calls the function"
    model.inner.interrupts = False
    with torch.device("cpu") if below_another_mode else nullcontext():
        torch.testing.assert_close(model(*call), expected)
    assert len(met) == 2
    torch.testing.assert_close(model(*call), expected)
    assert not attention_calls._entered()


SHAPES = {"one query for all": ([1, 2, 3, 4], [5, 2, 6, 4]), "one head of keys": ([5, 2, 3, 4], [5, 1, 6, 4]),
          "keys of one sample": ([5, 3, 4], [1, 6, 4]), "no samples": ([0, 2, 3, 4], [0, 2, 6, 4])}  # fmt: skip
NO_PARTS = {"no axis for samples": ([3, 4], [6, 4]), "no keys": ([5, 2, 3, 4], [5, 2, 0, 4])}


@pytest.mark.parametrize("name", [*SHAPES, *NO_PARTS])
@torch.no_grad()
def test_shapes_that_torch_takes(name: str) -> None:
    q, kv = (torch.randn(shape) for shape in (SHAPES | NO_PARTS)[name])
    model = Calls()
    expected, met = model(q, kv, kv), []
    for at in attention_calls.add_attention_calls(model, Call((q, kv, kv), {})):
        model.get_submodule(at).register_forward_hook(lambda _, args, y: met.extend(map(len, args[:4])))
    torch.testing.assert_close(model(q, kv, kv), expected, equal_nan=True)
    assert met == ([] if name in NO_PARTS else [len(expected)] * 4), "they agree in the number of samples"


@torch.no_grad()
def test_attention_with_dropout_is_left_alone() -> None:
    model, call = Calls(dropout_p=0.5), tuple(torch.randn(3, 2, 2, 4, 4).unbind())
    assert not attention_calls.add_attention_calls(model, Call(call, {}))
    attention_calls.add_submodules(model, ["scaled_dot_product_attention"])
    model.scaled_dot_product_attention.register_forward_hook(lambda *_: pytest.fail("it is called"))
    assert model(*call).shape == (2, 2, 4, 4)
