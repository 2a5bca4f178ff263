"""Models that are converted in parts."""

from __future__ import annotations

import copy
import pickle
from collections import OrderedDict

import pytest
import torch
from nets import lively
from spikingjelly.activation_based import functional
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN, ssdlite320_mobilenet_v3_large
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.optical_flow import raft_small
from unchanged import assert_unchanged, snapshot

import sj_parallel_conversion as sjpc
from sj_parallel_conversion import compat
from sj_parallel_conversion.ann2snn.network.submodules import find_submodules

IMAGES = torch.randn(4, 3, 12, 12, generator=torch.Generator().manual_seed(0))


class Branches(nn.Module):
    """Two outputs in a dict, as a detector's backbone returns them."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.b = nn.Sequential(nn.Conv2d(4, 4, 3, stride=2), nn.ReLU())

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.a(x)
        return OrderedDict([("fine", x), ("coarse", self.b(x))])


class Detector(nn.Module):
    """Control flow that torch.fx cannot trace, around parts that it can."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Branches()
        self.neck = nn.ModuleDict({level: nn.Conv2d(4, 6, 1) for level in ("fine", "coarse")})
        self.head = nn.Module()
        self.head.tower = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.ReLU())
        self.head.scores, self.head.boxes = nn.Conv2d(6, 2, 1), nn.Conv2d(6, 4, 1)
        self.head.unused = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
        self.fuse = Fuse()

    def forward(self, images: list[Tensor] | Tensor, targets: list | None = None) -> list[dict[str, Tensor]]:
        x = torch.stack(list(images))
        features = [self.head.tower(self.neck[level](v)) for level, v in self.backbone(x).items()]
        results = []
        for one in zip(*features, strict=True):
            scores = torch.cat([self.head.scores(f).flatten(1) for f in one], 1)
            boxes = torch.cat([self.head.boxes(f).flatten(1) for f in one], 1)
            kept = scores.amax(0).topk(3).indices
            results.append({"scores": self.fuse(scores[:, kept], scores[:, kept]), "boxes": boxes[:, kept]})
        return results


class Fuse(nn.Module):
    """Takes two tensors."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.relu(x + y)


def detector() -> Detector:
    torch.manual_seed(0)
    model = Detector()
    lively(model.backbone, IMAGES)
    return model


def convert(model: nn.Module, submodules: list[str], loader: object = (IMAGES,), **options: object) -> nn.Module:
    options = {"time_steps": 4, "show_progress": False} | options
    return sjpc.ParallelConverter(loader, **options).convert(model, submodules=submodules)


def same(one: list[dict[str, Tensor]], other: list[dict[str, Tensor]]) -> bool:
    return all(torch.equal(x[key], y[key]) for x, y in zip(one, other, strict=True) for key in x)


PARTS = ["backbone", "head.tower"]


def test_whole_models_that_cannot_be_traced_are_told_their_parts() -> None:
    with pytest.raises(sjpc.ConversionError, match=r"submodules=\['backbone', 'head.tower', 'head.unused'\]"):
        sjpc.ParallelConverter([IMAGES], show_progress=False).convert(detector())
    assert sjpc.convertible_submodules(detector()) == ["backbone", "head.tower", "head.unused"]


@pytest.mark.parametrize(
    ("patterns", "names"),
    [
        (["backbone"], ["backbone"]),
        (["backbone.a", "backbone"], ["backbone"]),
        (["backbone.*"], ["backbone.a", "backbone.b"]),
        (["head.*"], ["head.tower", "head.unused"]),
        (["*.tower", "backbone"], ["backbone", "head.tower"]),
        (["backbone.?"], ["backbone.a", "backbone.b"]),
        (["b*"], ["backbone"]),
    ],
)
def test_patterns(patterns: list[str], names: list[str]) -> None:
    assert find_submodules(detector(), patterns) == names


@pytest.mark.parametrize(
    ("patterns", "error", "message"),
    [
        ("backbone", sjpc.ConfigError, "must be a list of names"),
        ([], sjpc.ConfigError, "must be a list of names"),
        ([1], sjpc.ConfigError, "must be a list of names"),
        (["backbon"], sjpc.ConfigError, "'backbon' matches no submodule.*backbone"),
        (["head.towr*"], sjpc.ConfigError, "head.tower"),
        (["neck.*"], sjpc.ConversionError, "nothing that 'neck.\\*' matches.*neck.fine.*no activation"),
        (["neck.fine"], sjpc.ConversionError, "'neck.fine'.*no activation"),
        (["head"], sjpc.ConversionError, r"'head'.*submodules=\['head.tower', 'head.unused'\]"),
        (["fuse"], sjpc.ConversionError, r"submodule 'fuse': it is called with \(Tensor, Tensor\).*one tensor"),
        (["fus*"], sjpc.ConversionError, "nothing that 'fus\\*' matches.*Fuse.forward needs x, y"),
        (["head.unused"], sjpc.DataError, "'head.unused' is not called"),
    ],
)
def test_errors(patterns: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"(?s){message}"):
        convert(detector(), patterns)


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
    [([], "empty"), ([torch.zeros(2, 5)], "Detector fails on a calibration batch"), ([{}], "no input tensor")],
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
    ],
    ids=["tensor", "with labels", "images and targets", "collated", "list of images", "mapping"],
)
def test_batches_as_models_take_them(loader: list) -> None:
    model = detector()
    assert same(convert(model, PARTS)(IMAGES), convert(model, PARTS, loader)(IMAGES))


@pytest.mark.parametrize("calibration", ["none", "da_qcfs", "least_squares", "weights"])
@torch.no_grad()
def test_many_steps_approach_the_ann(calibration: str) -> None:
    model = detector().eval()
    snn = convert(model, PARTS, calibration=calibration, threshold="max", time_steps=2048)
    for expected, found in zip(model(IMAGES), snn(IMAGES), strict=True):
        for key in expected:
            torch.testing.assert_close(found[key], expected[key], rtol=0.05, atol=0.05)


def test_the_model_is_left_as_it_was() -> None:
    model = detector().train()
    before = snapshot(model)
    snn = convert(model, PARTS)
    assert_unchanged(before, snapshot(model))
    own = {t.untyped_storage().data_ptr() for t in [*model.parameters(), *model.buffers()]}
    assert own.isdisjoint(t.untyped_storage().data_ptr() for t in [*snn.parameters(), *snn.buffers()])
    assert not snn.training and not any(m.training for m in snn.modules())


@torch.no_grad()
def test_executions_step_modes_and_copies_agree() -> None:
    snn = convert(detector(), PARTS)
    assert list(snn.parts) == PARTS and snn.time_steps == 4 and len(snn.neurons()) == 3
    expected = snn(IMAGES)
    for execution in ("packed", "spikes"):
        snn.execution = execution
        assert snn.execution == execution and same(snn(IMAGES), expected)
    for step_mode in ("m", "s"):
        functional.set_step_mode(snn, step_mode)
        functional.reset_net(snn)
        assert same(snn(list(IMAGES)), expected)
    for other in (copy.deepcopy(snn), pickle.loads(pickle.dumps(snn))):
        assert same(other.predict(IMAGES), expected)
    snn.step_by_step = True
    assert snn.step_by_step
    for one, other in zip(expected, snn(IMAGES), strict=True):
        torch.testing.assert_close(one["boxes"], other["boxes"], rtol=1e-3, atol=1e-3)


def test_conversion_is_deterministic() -> None:
    one, other = convert(detector(), PARTS), convert(detector(), PARTS)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_inputs_that_other_layers_compute_become_spikes() -> None:
    snn = convert(detector(), PARTS, spiking_inputs=True)
    assert {name: part.graded_input for name, part in snn.parts.items()} == {"backbone": False, "head.tower": True}
    assert sorted(site.node.signed for site in snn.parts["head.tower"].neurons()) == [False, True]
    assert not any(site.node.signed for site in snn.parts["backbone"].neurons())


def test_spikingjelly_s_converter_takes_submodules() -> None:
    argument = {compat.DIALECT.argument: "parallel", "dataloader": [IMAGES], "time_steps": 4, "show_progress": False}
    converter = compat.Converter(**argument)
    snn = getattr(converter, compat.DIALECT.method)(detector(), submodules=PARTS)
    expected = convert(detector(), PARTS)
    assert torch.equal(snn(IMAGES)[0]["boxes"], expected(IMAGES)[0]["boxes"])


def tiny_faster_rcnn() -> FasterRCNN:
    """Torchvision's detector with a backbone of two layers."""
    torch.manual_seed(0)
    backbone = nn.Sequential(
        nn.Conv2d(3, 8, 3, 4, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU()
    )
    backbone.out_channels = 8
    return FasterRCNN(
        backbone, num_classes=3, rpn_anchor_generator=AnchorGenerator(((16, 32),), ((1.0,),)), min_size=64, max_size=64,
        rpn_post_nms_top_n_test=8, box_score_thresh=0.0, box_detections_per_img=5,
    ).eval()  # fmt: skip


@torch.no_grad()
def test_faster_rcnn_end_to_end() -> None:
    model, images = tiny_faster_rcnn(), [torch.rand(3, 48, 64), torch.rand(3, 64, 40)]
    parts = sjpc.convertible_submodules(model)
    assert parts == ["backbone", "rpn.head.conv", "roi_heads.box_head"]
    snn = convert(model, ["backbone", "rpn.*", "roi_heads.box_*"], [(images, None)], time_steps=256)
    assert list(snn.parts) == parts
    for expected, found in zip(model(images), snn(images), strict=True):
        assert found.keys() == expected.keys()
        torch.testing.assert_close(found["scores"].sum(), expected["scores"].sum(), rtol=0.05, atol=0)
    assert sjpc.inspect(snn, show=False).accumulates > 0


class Flow(nn.Module):
    """RAFT with two of its twelve updates."""

    def __init__(self) -> None:
        super().__init__()
        self.raft = raft_small(weights=None)

    def forward(self, image1: Tensor, image2: Tensor) -> list[Tensor]:
        return self.raft(image1, image2, num_flow_updates=2)


@torch.no_grad()
def test_raft_end_to_end() -> None:
    torch.manual_seed(0)
    model, images = Flow().eval(), tuple(torch.rand(2, 1, 3, 128, 128) * 2 - 1)
    snn = convert(model, ["raft.*"], [images], mode="css", time_steps=8, threshold="max", calibration="none")
    update = [f"update_block.{name}" for name in ("motion_encoder.convcorr1", "motion_encoder.convflow1")]
    update += ["update_block.motion_encoder.convflow2", "update_block.motion_encoder.conv", "update_block.flow_head"]
    assert list(snn.parts) == [f"raft.{name}" for name in ("feature_encoder", "context_encoder", *update)]
    for expected, found in zip(model(*images), snn(*images), strict=True):
        assert (found - expected).square().sum() < 0.001 * expected.square().sum()


@pytest.mark.slow
@torch.no_grad()
def test_ssdlite_end_to_end() -> None:
    torch.manual_seed(0)
    model = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=3).eval()
    images = [torch.rand(3, 64, 64)]
    snn = convert(model, ["backbone", "head.*"], [images], time_steps=32, calibration="none")
    assert len(snn.parts) == 13 and snn(images)[0].keys() == model(images)[0].keys()
