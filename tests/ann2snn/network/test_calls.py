"""What parts are called with, and the calibration data that reach them."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from in_parts import PARTS, Detector, convert, detector, refuse_huge, same
from nets import IMAGES, lively
from torch import Tensor, nn

import sj_parallel_conversion as sjpc
from sj_parallel_conversion.ann2snn.network.calls import PartData, SubmoduleInputs, first_calls, with_graded_inputs

MANY_STEPS = {"time_steps": 2048, "threshold": "max", "calibration": "none"}


class Pair(NamedTuple):
    image: Tensor
    feature: Tensor


class Part(nn.Module):
    """Adds up whatever tensors there are."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)

    def of(self, image: Tensor, feature: Tensor) -> Tensor:
        return self.c(torch.relu(self.a(image) + self.b(feature)))


class Several(Part):
    def forward(self, image: Tensor, feature: Tensor) -> Tensor:
        return self.of(image, feature)


class Keywords(Part):
    def forward(self, image: Tensor, *, feature: Tensor, scale: float = 1.0) -> Tensor:
        return self.of(image, feature * scale)


class OfList(Part):
    def forward(self, features: list[Tensor]) -> Tensor:
        return self.of(*features)


class OfDict(Part):
    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"out": self.of(features["image"], features["feature"])}


class OfNamedTuple(Part):
    def forward(self, pair: Pair) -> tuple[Tensor, None]:
        return self.of(pair.image, pair.feature), None


class Flags(Part):
    def forward(self, image: Tensor, feature: Tensor | None, twice: bool, mode: str = "none") -> Tensor:
        y = self.of(image, self.a(image) if feature is None else feature)
        return y * 2 if twice and mode == "sum" else y


class Variadic(Part):
    def forward(self, *features: Tensor) -> Tensor:
        return self.of(*features)


CALLS = {
    "several tensors": (Several, lambda part, x, y: part(x, y)),
    "keywords": (Keywords, lambda part, x, y: part(x, feature=y, scale=2.0)),
    "keywords for positions": (Several, lambda part, x, y: part(feature=y, image=x)),
    "list": (OfList, lambda part, x, y: part([x, y])),
    "tuple in a list": (OfList, lambda part, x, y: part((x, y))),
    "dict": (OfDict, lambda part, x, y: part({"image": x, "feature": y})["out"]),
    "named tuple": (OfNamedTuple, lambda part, x, y: part(Pair(x, y))[0]),
    "flags": (Flags, lambda part, x, y: part(x, y, True, mode="sum")),
    "None": (Flags, lambda part, x, y: part(x, None, False)),
    "variadic": (Variadic, lambda part, x, y: part(x, y)),
}


class Around(nn.Module):
    """Calls its part in one of the ways above."""

    def __init__(self, way: str) -> None:
        super().__init__()
        kind, self.way = CALLS[way][0], way
        self.first, self.part, self.head = nn.Conv2d(3, 4, 1), kind(), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        refuse_huge(x)
        return self.head(CALLS[self.way][1](self.part, x, self.first(x)))


@pytest.mark.parametrize("way", CALLS)
@torch.no_grad()
def test_ways_to_call_a_part(way: str) -> None:
    torch.manual_seed(0)
    model = Around(way).eval()
    assert sjpc.convertible_submodules(model, [IMAGES]) == ["part"]
    snn = convert(model, ["part"], **MANY_STEPS)
    for x in (IMAGES, IMAGES[:1]):
        torch.testing.assert_close(snn(x), model(x), rtol=0, atol=0.01)
    assert not torch.equal(snn(IMAGES), model(IMAGES))


class Changing(nn.Module):
    """Its part is called with another flag each time."""

    def __init__(self) -> None:
        super().__init__()
        self.part = Flags()

    def forward(self, x: Tensor) -> Tensor:
        refuse_huge(x)
        y = self.part(x, None, False)
        return self.part(x, y, True, mode="sum")


def test_flags_that_change_from_call_to_call_are_refused() -> None:
    with pytest.raises(sjpc.DataError, match=r"submodule 'part': dataloader: batch 1 differs.*argument"):
        convert(Changing(), ["part"])


def test_errors_of_the_data_name_the_part() -> None:
    class Masks(nn.Module):
        """Gives its part infinite values."""

        def __init__(self) -> None:
            super().__init__()
            self.part = Several()

        def forward(self, x: Tensor) -> Tensor:
            refuse_huge(x)
            return self.part(x, torch.full_like(x, float("-inf")))

    model = Masks()
    model.part.b = nn.Softmax(1)
    model.part.a = nn.Identity()
    model.part.c = nn.Conv2d(3, 3, 1)
    with pytest.raises(sjpc.DataError, match=r"submodule 'part': .*NaN or infinite"):
        convert(model, ["part"])


class Selects(nn.Module):
    """Its head sees the positive ones of its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Sequential(nn.Linear(2, 2), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x[x[:, 0] > 0])


def test_parts_that_see_only_empty_tensors() -> None:
    with pytest.raises(sjpc.DataError, match=r"'head' is not called .* or with empty tensors only"):
        convert(Selects(), ["head"], [-torch.ones(4, 2)])
    assert convert(Selects(), ["head"], [-torch.ones(4, 2), torch.ones(4, 2)])(-torch.ones(4, 2)).shape == (0, 2)


@pytest.mark.parametrize(
    ("loader", "message"),
    [
        ([], "empty"),
        ([torch.zeros(2, 5)], "Detector itself fails on a calibration batch"),
        ([{}], "batch 0 is a mapping.*not clear"),
        ([{"a": 1}], "batch 0 is a mapping with the keys a"),
    ],
)
def test_unusable_data(loader: list, message: str) -> None:
    with pytest.raises(sjpc.DataError, match=message):
        convert(detector(), PARTS, loader)


@pytest.mark.parametrize(
    "loader",
    [
        [IMAGES],
        [(IMAGES, torch.zeros(4))],
        [(list(IMAGES), [{}] * 4)],
        [[tuple(IMAGES), ({},) * 4]],
        [list(IMAGES)],
        [{"images": IMAGES}],
        [{"images": IMAGES, "targets": [{}] * 4}],
        iter([IMAGES]),
    ],
    ids=["tensor", "labels", "images and targets", "collated", "list", "mapping", "mapping with targets", "once"],
)
def test_batches_as_models_take_them(loader: list) -> None:
    model = detector()
    options = {"calibration": "none"}
    assert same(convert(model, PARTS, **options)(IMAGES), convert(model, PARTS, loader, **options)(IMAGES))


class Writes(nn.Module):
    """Writes to its input; its part, and a part that is called with the same, write to theirs."""

    def __init__(self, read: bool) -> None:
        super().__init__()
        self.read = read
        self.part = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True))
        self.second = nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU(inplace=True))

    def forward(self, x: Tensor) -> Tensor:
        x.sub_(0.25)
        refuse_huge(x)
        y = self.second(self.part(x))
        return y + x.mean() if self.read else y


@torch.no_grad()
def test_models_that_write_to_their_inputs() -> None:
    torch.manual_seed(0)
    model, data = Writes(read=False).eval(), IMAGES.clone()
    snn = convert(model, ["part", "second"], [data], **MANY_STEPS)
    assert torch.equal(data, IMAGES)
    assert sjpc.convertible_submodules(model, [data]) == ["part", "second"] and torch.equal(data, IMAGES)
    torch.testing.assert_close(snn(IMAGES.clone()), model(IMAGES.clone()), rtol=0, atol=0.01)


@torch.no_grad()
def test_what_a_part_writes_for_the_model_to_read_is_refused() -> None:
    torch.manual_seed(0)
    model = Writes(read=True).eval()
    with pytest.raises(sjpc.ConversionError, match=r"^'part' of the submodules writes to its input.*inplace=False"):
        convert(model, ["part", "second"])
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())
    model.part[0].inplace = False
    snn = convert(model, ["part", "second"], **MANY_STEPS)
    torch.testing.assert_close(snn(IMAGES.clone()), model(IMAGES.clone()), rtol=0, atol=0.01)


def test_parts_are_given_what_reaches_them() -> None:
    model, kept = detector().eval(), []
    data = PartData(model, [IMAGES, IMAGES[:2] + 1], None)
    calls = list(SubmoduleInputs(model, "head.tower", data))
    assert [len(call.args[0]) for call in calls] == [4, 4, 2, 2], "two levels in each of two batches"
    with torch.no_grad():
        handle = model.head.tower.register_forward_pre_hook(lambda module, args: kept.append(args[0]))
        model(IMAGES), model(IMAGES[:2] + 1)
        handle.remove()
    assert all(torch.equal(call.args[0], x) for call, x in zip(calls, kept, strict=True))
    assert not model.head.tower._forward_pre_hooks, "nobody listens any more"


def test_what_hooks_of_the_user_change_is_part_of_the_call() -> None:
    model = detector().eval()
    plain = first_calls(model, PartData(model, [IMAGES], None).first())["head.tower"].args[0]
    model.head.tower.register_forward_pre_hook(lambda module, args: (args[0] + 1,))
    changed = first_calls(model, PartData(model, [IMAGES], None).first())["head.tower"].args[0]
    assert torch.equal(changed, plain + 1)


def test_inputs_that_other_layers_compute_are_told() -> None:
    model = detector().eval()
    call = PartData(model, [IMAGES], None).first()
    assert with_graded_inputs(model, ["backbone", "head.tower", "fuse"], call) == {"head.tower", "fuse"}
    snn = convert(model, PARTS, spiking_inputs=True)
    assert {name: part.graded_input for name, part in snn.parts.items()} == {"backbone": False, "head.tower": True}
    assert sorted(site.node.signed for site in snn.parts["head.tower"].neurons()) == [False, True]
    assert not any(site.node.signed for site in snn.parts["backbone"].neurons())


class Scalar(Detector):
    """Its first parameter has another dtype than the others."""

    def __init__(self) -> None:
        super().__init__()
        self.register_parameter("temperature", nn.Parameter(torch.tensor(2.0, dtype=torch.float64)))

    def forward(self, images: list[Tensor] | Tensor, targets: list | None = None) -> list[dict[str, Tensor]]:
        return super().forward([x / float(self.temperature) for x in images], targets)


def test_the_dtype_is_that_of_most_values() -> None:
    torch.manual_seed(0)
    model = Scalar()
    lively(model.backbone, IMAGES)
    snn = convert(model, PARTS, [IMAGES.double()])
    assert snn(IMAGES)[0]["boxes"].dtype == torch.float32
    assert sjpc.convertible_submodules(model, [IMAGES]) == PARTS
