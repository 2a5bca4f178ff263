"""Which places count: against gradients image by image, and networks that have no classes."""

from __future__ import annotations

import pytest
import torch
from captured import captured
from torch import Tensor, nn

import sj_parallel_conversion as sjpc
from sj_parallel_conversion.ann2snn.calibration.sensitivity import Sensitivity
from sj_parallel_conversion.ann2snn.data.inputs import Batch
from sj_parallel_conversion.ann2snn.placement.sites import Site


def classifier(classes: int = 4) -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 8), nn.ReLU(), nn.Linear(8, classes)]
    return nn.Sequential(*layers).eval()


def sensitivity(ann: nn.Module, batches: list[Tensor], channel_dim: int | None = 1) -> Sensitivity:
    model, _ = captured(ann, batches[0])
    names = [name for name, module in model.named_modules() if isinstance(module, nn.ReLU)]
    found = Sensitivity(model, [Site(name, model.get_submodule(name), channel_dim) for name in names])
    watched = list(found.watch(Batch((x,), (True,)) for x in batches))
    assert all(torch.equal(seen.tensors[0], x) for seen, x in zip(watched, batches, strict=True))
    return found


def test_is_the_gradient_of_the_margin_image_by_image() -> None:
    ann, x = classifier(), torch.randn(20, 2, 6, 6)  # more than one part of a batch
    squares, margin = [], ann(x[:16]).topk(2).values.diff().abs().mean().item()  # of the first part
    for image in x.split(1):
        y = ann[:2](image).detach().requires_grad_()
        first, second = ann[2:](y).topk(2).values[0]
        (gradient,) = torch.autograd.grad(first - second, y)
        squares.append(gradient.square().mean(1, keepdim=True) / (1 + (first - second).detach() / (0.2 * margin)))
    square = torch.cat(squares)
    expected = (square + 0.1 * square.mean()).sqrt()
    weights = torch.cat(sensitivity(ann, list(x.split(18))).weights("1"))
    torch.testing.assert_close(weights, expected / expected.mean())


def test_unknown_channels_count_by_the_image() -> None:
    weights = sensitivity(classifier(), [torch.randn(5, 2, 6, 6)], channel_dim=None).weights("1")
    assert [w.shape for w in weights] == [(5, 1, 1, 1)]


class Pair(nn.Sequential):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = super().forward(x)
        return y, y + 1


@pytest.mark.parametrize(
    "ann",
    [
        pytest.param(classifier(classes=1), id="one output"),
        pytest.param(nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Conv2d(3, 2, 1)), id="maps"),
        pytest.param(Pair(*classifier()), id="two outputs"),
    ],
)
def test_without_classes_all_places_count_alike(ann: nn.Module) -> None:
    x = torch.randn(3, 2, 6, 6)
    assert sensitivity(ann, [x, x]).weights("1") is None
    options = {"time_steps": 4, "calibration": "weights", "show_progress": False}
    sjpc.ParallelConverter([x, x], **options).convert(ann)


def test_without_gradients_all_places_count_alike() -> None:
    ann = classifier()
    ann[5].weight.data.zero_()
    assert sensitivity(ann, [torch.randn(3, 2, 6, 6)]).weights("1") is None


@pytest.mark.parametrize("trainable", [True, False])
def test_leaves_no_gradient(trainable: bool) -> None:
    ann, x = classifier().requires_grad_(trainable), torch.randn(3, 2, 6, 6)
    snn = sjpc.ParallelConverter([x], time_steps=4, calibration="weights", show_progress=False).convert(ann)
    assert all(p.grad is None and p.requires_grad is trainable for p in ann.parameters())
    assert all(p.grad is None for p in snn.parameters())


@pytest.mark.parametrize("ann_too", [True, False])
def test_tensors_made_in_inference_mode(ann_too: bool) -> None:
    with torch.inference_mode():
        x, made_there = torch.randn(3, 2, 6, 6), classifier()
    ann = made_there if ann_too else classifier()
    snn = sjpc.ParallelConverter([x], time_steps=4, calibration="weights", show_progress=False).convert(ann)
    with torch.no_grad():
        assert torch.isfinite(snn.predict(x)).all()


def test_operations_without_a_derivative_and_autocast() -> None:
    """Errors count alike where the ANN cannot be differentiated; a calibration computes in full precision."""

    class Igamma(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(6, 3), nn.Linear(4, 6)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(torch.igamma(torch.relu(self.a(x)) + 1, torch.relu(self.c(x))))

    x = torch.randn(32, 4)
    options = {"time_steps": 4, "calibration": "weights", "show_progress": False}
    with pytest.warns(UserWarning, match="all errors count alike, because the ANN has no gradient"):
        sjpc.ParallelConverter([x], **options).convert(Igamma().eval())
    ann = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).eval()
    expected = sjpc.ParallelConverter([x], **options).convert(ann).predict(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        snn = sjpc.ParallelConverter([x], **options).convert(ann)
    assert torch.equal(snn.predict(x), expected)
