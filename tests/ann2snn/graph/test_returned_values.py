"""What a model returns, a converted one returns too: the same types with the same keys, decoded and step by step."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import pytest
import torch
from nets import IMAGES
from spikingjelly.activation_based import functional
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

import sj_parallel_conversion as sjpc
from sj_parallel_conversion.ann2snn.data.structure import flatten

T = 4


class Pair(NamedTuple):
    out: Tensor
    aux: Tensor


@dataclass
class Output:
    logits: Tensor
    loss: Tensor | None = None
    hidden: tuple[Tensor, ...] = ()
    names: list[str] = field(default_factory=lambda: ["cat", "dog"])


@dataclass(frozen=True)
class Frozen:
    """Computes one of its fields, so that it cannot be made of its fields again."""

    logits: Tensor
    size: object = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", tuple(self.logits.shape[1:]))


Old = namedtuple("Old", "a b")

FORMS: dict[str, Callable[[Tensor, Tensor], object]] = {
    "tensor": lambda y, h: y,
    "dict": lambda y, h: {"out": y, "aux": h},
    "OrderedDict": lambda y, h: OrderedDict(out=y, aux=h),
    "tuple": lambda y, h: (y, h),
    "one in a tuple": lambda y, h: (y,),
    "list": lambda y, h: [y, h, y],
    "named tuple": lambda y, h: Pair(y, h),
    "old named tuple": lambda y, h: Old(a=[h], b=y),
    "dataclass": lambda y, h: Output(y, hidden=(h, h * 2)),
    "frozen dataclass": lambda y, h: {"result": Frozen(y)},
    "None inside": lambda y, h: {"loss": None, "out": (None, y), "empty": [], "more": {}},
    "constants": lambda y, h: {"out": y, "size": (4, 0.5), "name": "net", "flag": True},
    "sizes": lambda y, h: {"out": y, "n": y.shape[0], "shape": tuple(h.shape)},
    "torch.Size": lambda y, h: {"out": y, "shape": h.shape, "inner": [h.size()[1:]], "own": torch.Size([2, 3])},
    "keys": lambda y, h: {0: y, ("a", 1): h},
    "nested": lambda y, h: [{"levels": [(y, h), Pair(h, y)]}, OrderedDict(b=Output(y), a=None)],
    "same twice": lambda y, h: (h, h),
    "views": lambda y, h: (h, h.flatten(1), *h.unbind(1)),
    "input too": lambda y, h: (y, h.detach()),
}


class Returns(nn.Module):
    """Returns its result in one of the forms."""

    def __init__(self, form: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.form, self.a, self.b = form, nn.Conv2d(3, 4, 3), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> object:
        h = torch.relu(self.a(x))
        return FORMS[self.form](self.b(h.mean((2, 3))), h)


def assert_alike(value: object, expected: object, atol: float) -> None:
    """The same structure, types and constants; tensors may differ by ``atol``."""
    leaves, structure = flatten(value)
    others, wanted = flatten(expected)
    assert type(value) is type(expected) and structure == wanted
    for x, y in zip(leaves, others, strict=True):
        assert type(x) is type(y)
        if isinstance(x, Tensor):
            torch.testing.assert_close(x, y, rtol=0, atol=atol)
        else:
            assert x == y


@pytest.mark.parametrize("form", FORMS)
@torch.no_grad()
def test_outputs(form: str) -> None:
    ann = Returns(form).eval()
    options = {"time_steps": T, "threshold": "max", "calibration": "none", "show_progress": False}
    snn = sjpc.ParallelConverter([IMAGES], **options | {"mode": "css", "time_steps": 12}).convert(ann)
    assert_alike(snn.predict(IMAGES), ann(IMAGES), atol=0.01)
    assert_alike(snn.predict(IMAGES[:3]), ann(IMAGES[:3]), atol=0.01)

    snn = sjpc.ParallelConverter([IMAGES], **options).convert(ann)
    decoded = snn.predict(IMAGES)
    steps = [snn(IMAGES) for _ in range(T)]
    assert all(type(step) is type(decoded) for step in steps)
    leaves = [tree_leaves(flatten(step)[0]) for step in steps]
    means = iter([sum(v) / T if isinstance(v[0], Tensor) else v[0] for v in zip(*leaves, strict=True)])
    assert_alike(flatten(steps[0])[1].unflatten(list(means)), decoded, atol=1e-5)
    functional.set_step_mode(snn, "m")
    y_seq = snn(IMAGES.expand(T, *IMAGES.shape))
    assert type(y_seq) is type(decoded)
    first = next(leaf for leaf in flatten(y_seq)[0] if isinstance(leaf, Tensor))
    assert first.shape[:2] == (T, len(IMAGES))
    assert_alike(snn.decode(y_seq), decoded, atol=1e-5)


@pytest.mark.parametrize("step_mode", ["s", "m", "predict"])
@torch.no_grad()
def test_outputs_may_be_changed(step_mode: str) -> None:
    ann = Returns("OrderedDict").eval()
    snn = sjpc.ParallelConverter([IMAGES], time_steps=T, show_progress=False).convert(ann)
    x = IMAGES
    if step_mode == "m":
        functional.set_step_mode(snn, "m")
        x = IMAGES.expand(T, *IMAGES.shape)
    run = snn.predict if step_mode == "predict" else snn
    expected = tree_map(torch.clone, run(x))
    functional.reset_net(snn)
    y = run(x)
    y["probabilities"] = y["out"].softmax(-1)
    del y["aux"]
    functional.reset_net(snn)
    again = run(x)
    assert list(again) == ["out", "aux"] and torch.equal(again["out"], expected["out"])


def test_a_part_returns_what_it_stands_for() -> None:
    class Around(nn.Module):
        """Reads attributes of what its part returns."""

        def __init__(self) -> None:
            super().__init__()
            self.part = Returns("dataclass")

        def forward(self, x: Tensor) -> Tensor:
            y = self.part(x)
            return y.logits if y.loss is None and y.names == ["cat", "dog"] else y.hidden[0]

    options = {"time_steps": T, "show_progress": False}
    snn = sjpc.ParallelConverter([IMAGES], **options).convert(Around().eval(), submodules=["part"])
    assert snn(IMAGES).shape == (4, 2)


class NoTensor(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> None:
        torch.relu(self.a(x))


def test_models_that_return_no_tensor_are_refused() -> None:
    with pytest.raises(sjpc.ConversionError):
        sjpc.ParallelConverter([IMAGES], show_progress=False).convert(NoTensor())
