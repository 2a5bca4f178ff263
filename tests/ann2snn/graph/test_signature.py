"""What a model takes, a converted one takes too: arguments of any number and form, other sizes, other dtypes."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from nets import IMAGES
from spikingjelly.activation_based import functional
from torch import Tensor, nn
from torch.nn import functional as F

import sj_parallel_conversion as sjpc

T = 4
IDS = torch.randint(0, 20, (6, 5), generator=torch.Generator().manual_seed(0))
MASK = (torch.arange(5) < torch.tensor([5, 4, 3, 5, 2, 1]).view(6, 1)).long()
FINE = {"mode": "css", "time_steps": 12, "threshold": "max", "calibration": "none", "show_progress": False}


def convert(ann: nn.Module, *batches: object, **options: object) -> sjpc.SpikingNetwork:
    return sjpc.ParallelConverter(list(batches), **FINE | options).convert(ann)


class Words(nn.Module):
    """Takes ids, a mask and positions, by position or by name, as language models do."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words, self.positions, self.kinds = nn.Embedding(20, 8), nn.Embedding(9, 8), nn.Embedding(2, 8)
        self.inner, self.head = nn.Linear(8, 16), nn.Linear(16, 3)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        *,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
        pooled: bool = True,
    ) -> Tensor | tuple[Tensor, Tensor]:
        if position_ids is None:
            position_ids = torch.arange(input_ids.shape[1], device=input_ids.device)[None]
        x = self.words(input_ids) + self.positions(position_ids)
        if token_type_ids is not None:
            x = x + self.kinds(token_type_ids)
        y = self.head(F.gelu(self.inner(x)))
        if pooled:
            mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
            y = (y * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return y if labels is None else (F.cross_entropy(y, labels), y)


class Pair(NamedTuple):
    left: Tensor
    right: Tensor


class Nested(nn.Module):
    """Takes lists, dicts and named tuples of tensors."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 1)

    def forward(self, images: dict[str, object], pair: Pair, scale: float = 1.0) -> Tensor:
        x = sum(images["list"]) + images["inner"]["x"] * scale
        return self.b(torch.relu(self.a(x + pair.left - pair.right[..., None, None])))


NESTED = ({"list": [IMAGES, IMAGES * 0.5], "inner": {"x": IMAGES + 1}}, Pair(IMAGES, IMAGES.mean((2, 3))))
POSITIONS = torch.arange(4, -1, -1)[None]
WAYS: dict[str, tuple[Callable[[], nn.Module], object, tuple, dict[str, object]]] = {  # model, batch, call
    "integers": (Words, IDS, (IDS,), {}),
    "by name": (Words, {"input_ids": IDS, "attention_mask": MASK}, (), {"attention_mask": MASK, "input_ids": IDS}),
    "by position instead": (Words, {"input_ids": IDS, "attention_mask": MASK}, (IDS, MASK), {}),
    "some by name": (Words, {"input_ids": IDS, "token_type_ids": MASK}, (IDS,), {"token_type_ids": MASK}),
    "targets are left out": (Words, {"labels": MASK[:, 0], "input_ids": IDS}, (IDS,), {}),
    "positions for all": (Words, {"input_ids": IDS, "position_ids": POSITIONS}, (IDS, None, POSITIONS), {}),
    "a flag": (Words, {"input_ids": IDS, "pooled": False}, (IDS,), {"pooled": False}),
    "a default": (Words, IDS, (IDS, None), {"pooled": True, "labels": None}),
    "nested": (Nested, NESTED, NESTED, {}),
    "nested and a number": (
        Nested, {"images": NESTED[0], "pair": NESTED[1], "scale": 0.5}, NESTED, {"scale": 0.5},
    ),
}  # fmt: skip


def first(value: object, n: int) -> object:
    """The first ``n`` samples of whatever holds samples."""
    return torch.utils._pytree.tree_map(
        lambda x: x[:n] if isinstance(x, Tensor) and len(x) > 1 else x, value, is_leaf=lambda x: isinstance(x, Tensor)
    )


def assert_near(y: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(y, expected, rtol=0, atol=0.01 * max(1.0, float(expected.abs().max())))


@pytest.mark.parametrize("way", WAYS)
@torch.no_grad()
def test_ways_to_call_a_model(way: str) -> None:
    make, batch, args, kwargs = WAYS[way]
    ann = make().eval()
    snn = convert(ann, batch)
    for n in (6, 2, 1):
        some, named = first(args, n), first(kwargs, n)
        for network in (snn, copy.deepcopy(snn), pickle.loads(pickle.dumps(snn))):
            assert_near(network.predict(*some, **named), ann(*some, **named))
    assert_near(sum(snn(*args, **kwargs) for _ in range(12)) / 12, snn.predict(*args, **kwargs))
    functional.set_step_mode(snn, "m")
    sequence = torch.utils._pytree.tree_map(
        lambda x: x.expand(12, *x.shape) if isinstance(x, Tensor) else x, (args, kwargs)
    )
    assert_near(snn.decode(snn(*sequence[0], **sequence[1])), snn.predict(*args, **kwargs))


@pytest.mark.parametrize(
    ("args", "kwargs", "says"),
    [
        ((), {}, "argument 'input_ids' is missing.*converted with input_ids, attention_mask"),
        ((IDS,), {"mask": MASK}, "unknown argument 'mask'"),
        ((IDS, None), {}, "argument 'attention_mask' is None, and the network was converted with a tensor"),
        ((IDS, MASK), {"pooled": False}, "'pooled'"),
        ((IDS, MASK), {"input_ids": IDS}, "'input_ids' is given twice"),
        ((IDS, MASK[:, :4]), {}, r"attention_mask\.shape\[1\] is 4, and has to be 5"),
        ((IDS, MASK[:3]), {}, r"attention_mask\.shape\[0\] is 3, and has to be 6"),
        ((IDS[0], MASK), {}, r"as 'input_ids', got shape \[5\]"),
        ((IDS.tolist(), MASK), {}, "argument 'input_ids' is|argument is built otherwise"),
    ],
)
def test_calls_that_are_refused(words: sjpc.SpikingNetwork, args: tuple, kwargs: dict, says: str) -> None:
    with pytest.raises(sjpc.DataError, match=says):
        words.predict(*args, **kwargs)
    assert words.predict(IDS, MASK).shape == (6, 3)


@pytest.fixture(scope="module")
def words() -> sjpc.SpikingNetwork:
    return convert(Words().eval(), {"input_ids": IDS, "attention_mask": MASK})


def test_mappings_without_names_of_arguments() -> None:
    ann = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    x, y = torch.randn(6, 5), torch.randn(6, 3)
    expected = convert(ann, x).predict(x)
    for batch in ({"features": x, "target": y}, {"target": y, "features": x}, {"z": x}, {"y": x, "image": x, "id": y}):
        assert torch.equal(convert(ann, batch).predict(x), expected)
    with pytest.raises(sjpc.DataError, match=r"keys left, right, and which of them.*\(input\)"):
        convert(ann, {"left": x, "right": y})
    with pytest.raises(sjpc.DataError, match=r"lacks input_ids, which Words\.forward needs; its keys are att"):
        convert(Words(), {"attention_mask": MASK})


@torch.no_grad()
def test_other_lengths() -> None:
    ann, ids = Words().eval(), torch.randint(0, 20, (99, 9), generator=torch.Generator().manual_seed(0))
    snn = convert(ann, ids[:, :5], ids)
    for n, length in ((2, 1), (1, 4), (3, 9)):
        assert_near(snn.predict(ids[:n, :length]), ann(ids[:n, :length]))


class Sized(nn.Module):
    """What it does with the size of an image is given."""

    def __init__(self, function: Callable) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.function, self.a, self.b, self.c = function, nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1), nn.Linear(400, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, torch.relu(self.a(x)), x)


FREE = {
    "convolutions": lambda m, y, x: m.b(y),
    "a mean": lambda m, y, x: m.b(y).sum((2, 3)) / (y.shape[2] * y.shape[3]),
    "a grid": lambda m, y, x: m.b(y + torch.arange(y.shape[3]) / y.shape[3]),
    "resizing": lambda m, y, x: F.interpolate(m.b(y), size=x.shape[2:], mode="bilinear"),
    "padding": lambda m, y, x: m.b(F.pad(y, (0, -y.shape[3] % 4, 0, -y.shape[2] % 4))),
    "pooling": lambda m, y, x: F.adaptive_avg_pool2d(m.b(y), 2).flatten(1),
}


@pytest.mark.parametrize("form", FREE)
@torch.no_grad()
def test_other_image_sizes(form: str) -> None:
    ann = Sized(FREE[form]).eval()
    snn = convert(ann, IMAGES)
    for size in ((1, 3, 12, 12), (2, 3, 20, 16), (3, 3, 9, 14)):
        x = torch.randn(size, generator=torch.Generator().manual_seed(1)).clamp(-1, 1)
        assert_near(snn.predict(x), ann(x))


FIXED = {
    "a line": (lambda m, y, x: m.b(y + torch.linspace(0, 1, y.shape[3])), IMAGES[..., :10], r"x\.shape\[3\] is 10"),
    "a linear layer": (lambda m, y, x: m.c(y.flatten(1)), IMAGES[..., :10], r"x\.shape\[3\] is 10"),
    "a number": (lambda m, y, x: m.b(y) * int(x.shape[2]), IMAGES[:, :, :10], r"x\.shape\[2\] is 10.*has to be 12"),
    "a check": (lambda m, y, x: m.b(y) if x.shape[3] == 12 else y, IMAGES[..., :10], r"x\.shape\[3\] is 10"),
    "a condition": (lambda m, y, x: m.b(y) if x.shape[2] > 8 else y, IMAGES[:, :, :7], r"x\.shape\[2\] is 7, and the"),
    "squares": (lambda m, y, x: m.b(y) if y.shape[2] == y.shape[3] else y, IMAGES[..., :10], r"x\.shape\[3\] is 10"),
}


@pytest.mark.parametrize("form", FIXED)
@torch.no_grad()
def test_sizes_that_a_model_fixes_are_refused_by_name(form: str) -> None:
    function, x, says = FIXED[form]
    ann = Sized(function).eval()
    snn = convert(ann, IMAGES)
    assert_near(snn.predict(IMAGES[:1]), ann(IMAGES[:1]))
    with pytest.raises(sjpc.DataError, match=says):
        snn.predict(x)


@pytest.mark.parametrize("calibration", ["none", "least_squares", "weights"])
@torch.no_grad()
def test_a_batch_size_that_a_model_holds(calibration: str) -> None:
    ann = Sized(lambda m, y, x: m.c(y.view(8, -1))).eval()
    data = torch.randn(32, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    snn = convert(ann, *data.split(8), calibration=calibration)
    assert_near(snn.predict(data[:8]), ann(data[:8]))
    with pytest.raises(sjpc.DataError, match=r"x\.shape\[0\] is 3, and has to be 8: the ANN fixes it"):
        snn.predict(data[:3])
    with pytest.raises(sjpc.DataError, match="itself fails on a calibration batch"):
        convert(ann, data[:7])
    with pytest.raises(sjpc.DataError, match=r"batch 1|shape\[0\] is 4"):
        convert(ann, data[:8], data[:4], calibration=calibration)


@torch.no_grad()
def test_a_calibration_batch_of_one() -> None:
    ann = Sized(lambda m, y, x: m.c(y.reshape(x.shape[0], -1))).eval()
    snn = convert(ann, *IMAGES.split(1))
    for n in (1, 4):
        assert_near(snn.predict(IMAGES[:n]), ann(IMAGES[:n]))
    some = IDS[:1].repeat(3, 1)
    assert_near(convert(Words().eval(), IDS[:1]).predict(some), Words()(some))


@torch.no_grad()
def test_a_last_batch_that_is_smaller() -> None:
    ann = Sized(lambda m, y, x: m.c(y.view(len(x), -1))).eval()
    assert_near(convert(ann, IMAGES[:3], IMAGES[3:]).predict(IMAGES), ann(IMAGES))


def test_inputs_are_left_as_they_are() -> None:
    def writes(m: Sized, y: Tensor, x: Tensor) -> Tensor:
        x.mul_(2)
        x[:, 0] = 1
        return m.a(x) + F.relu_(y.sub_(0.5))

    ann, data, x = Sized(writes).eval(), IMAGES.clone(), IMAGES.clone()
    snn = convert(ann, data)
    with torch.no_grad():
        assert_near(snn.predict(x), ann(IMAGES.clone()))
        sum(snn(x) for _ in range(12))
    assert torch.equal(data, IMAGES) and torch.equal(x, IMAGES)
