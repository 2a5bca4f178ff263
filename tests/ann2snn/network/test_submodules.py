"""Which submodules are converted, and which are suggested."""

from __future__ import annotations

import pytest
import torch
from in_parts import Detector, convert, detector, found, refuse_huge
from nets import IMAGES
from torch import Tensor, nn

import sj_parallel_conversion as sjpc


@pytest.mark.parametrize(
    ("patterns", "names"),
    [
        (["backbone"], ["backbone"]),
        (["backbone.a", "backbone"], ["backbone"]),
        (["backbone.*"], ["backbone.a", "backbone.b"]),
        (["head.*"], ["head.tower"]),
        (["*.tower", "backbone"], ["backbone", "head.tower"]),
        (["backbone.?"], ["backbone.a", "backbone.b"]),
        (["b*"], ["backbone"]),
        (["backbone.a.*"], ["backbone.a.2"]),
        (["fus*"], ["fuse"]),
        (["head.unused"], ["head.unused"]),
    ],
)
def test_patterns(patterns: list[str], names: list[str]) -> None:
    assert found(detector(), patterns) == names


@pytest.mark.parametrize(
    ("patterns", "error", "message"),
    [
        ("backbone", sjpc.ConfigError, "must be a list of names"),
        ([], sjpc.ConfigError, "must be a list of names"),
        ([1], sjpc.ConfigError, "must be a list of names"),
        (["backbon"], sjpc.ConfigError, "'backbon' matches no submodule.*backbone"),
        (["head.towr*"], sjpc.ConfigError, "head.tower"),
        (["neck.*"], sjpc.ConversionError, r"nothing that 'neck\.\*' matches.*neck.fine.*no activation"),
        (["neck.fine"], sjpc.ConversionError, "submodule 'neck.fine': nothing to convert.*no activation"),
        (["head"], sjpc.DataError, r"submodule 'head' is not called.*contains instead, as 'head\.\*'"),
        (["head.unused*"], sjpc.ConversionError, "'head.unused': it is not called"),
        (["head.unused"], sjpc.DataError, "submodule 'head.unused' is not called"),
    ],
)
def test_errors(patterns: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"(?s){message}"):
        convert(detector(), patterns)


def test_whole_models_that_cannot_be_captured_are_told_their_parts() -> None:
    says = r"(?s)line \d+: if x\.sum.*submodules=\['backbone', 'head\.tower'\]"
    with pytest.raises(sjpc.ConversionError, match=says):
        sjpc.ParallelConverter([IMAGES], show_progress=False).convert(detector())


def test_suggestions_have_layers_and_are_called() -> None:
    model = detector()
    assert sjpc.convertible_submodules(model, [IMAGES]) == ["backbone", "head.tower"]
    assert convert(model, ["fuse"]).parts.keys() == {"fuse"}, "convertible, and no layer in it"


def test_suggestions_need_data_that_the_model_runs_on() -> None:
    with pytest.raises(sjpc.DataError, match="dataloader=None"):
        sjpc.convertible_submodules(detector())
    with pytest.raises(sjpc.DataError, match="Detector itself fails"):
        sjpc.convertible_submodules(detector(), [torch.zeros(2, 5)])
    with pytest.raises(sjpc.ConversionError, match=r"must be a torch\.nn\.Module, got NoneType"):
        sjpc.convertible_submodules(None)


class Hidden(nn.Module):
    """Like the encoder of a language model: flags beside the tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)

    def forward(self, x: Tensor, hidden: bool = False, as_dict: bool = True) -> Tensor | dict[str, Tensor]:
        y = torch.relu(self.b(torch.relu(self.a(x))))
        return {"last": y} if as_dict else y


class OfList(nn.Module):
    """Like the decoder of a segmentation model: a list of features, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(8, 8, 1)

    def forward(self, *, features: list[Tensor]) -> Tensor:
        return torch.relu(self.a(features[-1]))


class Refusing(nn.Module):
    """Looks at values itself."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        refuse_huge(x)
        return self.inner(x)


class Model(nn.Module):
    """One part of each kind."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder, self.refusing = Hidden(), OfList(), Refusing()
        self.norm, self.act = nn.BatchNorm2d(8), nn.GELU()
        self.kept: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        refuse_huge(x)
        y = self.encoder(x, False, True)["last"]
        return self.act(self.norm(self.refusing(self.decoder(features=[x, y]))))


def test_each_suggestion_converts() -> None:
    torch.manual_seed(0)
    model = Model().eval()
    names = sjpc.convertible_submodules(model, [IMAGES])
    assert names == ["encoder", "decoder", "refusing.inner"]
    for name in names:
        assert list(convert(model, [name], calibration="none").parts) == [name]


def test_suggestions_leave_no_traces() -> None:
    model, kept, training = detector().train(), [], {}
    training.update({name: m.training for name, m in model.named_modules()})
    model.backbone.register_forward_hook(lambda module, args, y: kept.append(y))
    hooks = [len(m._forward_pre_hooks) for m in model.modules()]
    sjpc.convertible_submodules(model, [IMAGES])
    with pytest.raises(sjpc.ConversionError, match="submodules="):
        sjpc.ParallelConverter([IMAGES], show_progress=False).convert(model)
    assert kept == []
    assert [len(m._forward_pre_hooks) for m in model.modules()] == hooks
    assert {name: m.training for name, m in model.named_modules()} == training


class Aliased(nn.Module):
    """An encoder with a second name, and a layer of it with a third."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU()))
        self.features, self.block = self.encoder, self.encoder[2]

    def forward(self, x: Tensor) -> Tensor:
        return self.block(self.features(x))


@pytest.mark.parametrize(
    ("patterns", "names"),
    [
        (["features"], ["features"]),
        (["features", "encoder"], ["encoder"]),
        (["features", "encoder.2"], ["features"]),
        (["encoder", "features.2"], ["encoder"]),
        (["features.2", "block"], ["features.2"]),
        (["*"], ["encoder", "block"]),
        (["f*", "block"], ["features", "block"]),
    ],
)
def test_a_part_is_found_once_under_whichever_name(patterns: list[str], names: list[str]) -> None:
    model = Aliased().eval()
    assert found(model, patterns) == names
    snn = convert(model, patterns, calibration="none")
    first_names = {"features": "encoder", "features.2": "encoder.2"}
    assert list(snn.parts) == [first_names.get(name, name) for name in names]


def test_only_the_first_call_with_values_counts() -> None:
    class Levels(Detector):
        """The head sees a level without boxes first."""

        def forward(self, images: Tensor, targets: None = None) -> Tensor:
            refuse_huge(images)
            y = self.neck["fine"](self.backbone(images)["fine"])
            return self.head.tower(y[:0]).sum() + self.head.tower(y)

    assert sjpc.convertible_submodules(Levels(), [IMAGES]) == ["backbone", "head.tower"]
