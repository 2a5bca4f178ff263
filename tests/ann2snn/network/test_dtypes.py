"""Models in other dtypes, and converted networks that are cast or moved: they give what the ANN gives there."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from nets import IMAGES
from torch import Tensor, nn
from torch.nn import functional as F

import sj_parallel_conversion as sjpc

FINE = {"mode": "css", "time_steps": 12, "threshold": "max", "calibration": "none", "show_progress": False}
TOLERANCE = {torch.float16: 0.02, torch.bfloat16: 0.1, torch.float64: 0.002, torch.float32: 0.002}


class Model(nn.Module):
    """Layers, and what a function does with them."""

    def __init__(self, function: Callable) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.function, self.a, self.norm, self.b = function, nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1)
        self.register_buffer("shift", torch.full((4, 1, 1), 0.25))
        self.plain = torch.tensor(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def grid(m: Model, x: Tensor) -> Tensor:
    y = F.relu(m.a(x))
    place = torch.arange(y.shape[-1], device=x.device, dtype=y.dtype)
    return m.b(y + place / 10 + torch.zeros(1, dtype=x.dtype))


FORMS: dict[str, Callable[[Model, Tensor], Tensor]] = {
    "plain": lambda m, x: m.b(F.relu(m.norm(m.a(x)))),
    "constants": lambda m, x: m.b(F.relu(m.a(x) + m.shift) * 0.5 + m.plain),
    "grid": grid,
    "cast like another": lambda m, x: m.b(F.relu(m.a(x)) + torch.ones(4, 1, 1).to(x)),
    "cast to a weight": lambda m, x: m.b(F.gelu(m.a(x.to(m.a.weight.dtype)))),
    "in float32": lambda m, x: m.b(F.relu(m.a(x)).float().mul(0.5).to(x.dtype)),
    "new tensors": lambda m, x: m.b(F.relu(m.a(x)) + x.new_ones(4, 1, 1) + torch.zeros_like(m.a(x))),
    "masks": lambda m, x: m.b(F.relu(m.a(x)).masked_fill(m.a(x) > 1, 0.5)) * (m.shift > 0),
}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("when", ["before", "after"])
@torch.no_grad()
def test_the_dtype_of_the_model_before_or_after_the_conversion(form: str, dtype: torch.dtype, when: str) -> None:
    ann = Model(FORMS[form]).eval()
    if when == "before":
        snn = sjpc.ParallelConverter([IMAGES], **FINE).convert(copy.deepcopy(ann).to(dtype))
    else:
        snn = sjpc.ParallelConverter([IMAGES], **FINE).convert(ann).to(dtype)
    y = snn.predict(IMAGES.to(dtype))
    expected = ann.to(dtype)(IMAGES.to(dtype))
    assert y.dtype == expected.dtype
    scale = float(expected.abs().max())
    torch.testing.assert_close(y.float(), expected.float(), rtol=0, atol=TOLERANCE[dtype] * scale)
    floats = {t.dtype for t in [*snn.parameters(), *snn.buffers()] if t.is_floating_point()}
    # a tensor that is an attribute is not cast with the ANN either
    assert floats == {dtype} or (form == "constants" and when == "before")


@pytest.mark.parametrize("cast", [nn.Module.half, nn.Module.bfloat16, nn.Module.double])
@torch.no_grad()
def test_there_and_back(cast: Callable) -> None:
    ann = Model(FORMS["plain"]).eval()
    snn = sjpc.ParallelConverter([IMAGES], **FINE).convert(ann)
    expected = snn.predict(IMAGES)
    y = cast(snn).float().predict(IMAGES)
    torch.testing.assert_close(y, expected, rtol=0, atol=0.02 * float(expected.abs().max()))
    inspected = sjpc.inspect(cast(snn), show=False)
    assert inspected.share > 0


@torch.no_grad()
def test_a_scalar_of_another_dtype_decides_nothing() -> None:
    class Scaled(nn.Module):
        """Its first parameter is a float64, as a learnt temperature may be."""

        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(2.0, dtype=torch.float64))
            self.inner = Model(FORMS["plain"])

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x) * self.scale.float()

    ann = Scaled().eval()
    snn = sjpc.ParallelConverter([IMAGES.double()], **FINE).convert(ann)
    torch.testing.assert_close(snn.predict(IMAGES), ann(IMAGES), rtol=0, atol=0.02)


@torch.no_grad()
def test_integers_become_floats_of_the_network() -> None:
    ann = Model(lambda m, x: m.b(F.relu(m.a(x.to(m.b.weight.dtype) / 255)))).eval()
    x = torch.randint(0, 256, (4, 3, 12, 12), dtype=torch.uint8)
    snn = sjpc.ParallelConverter([x], **FINE).convert(ann)
    torch.testing.assert_close(snn.predict(x), ann(x), rtol=0, atol=0.002)
    y = snn.double().predict(x)
    assert y.dtype == torch.float64
    torch.testing.assert_close(y, ann.double()(x), rtol=0, atol=0.002)


@pytest.mark.gpu
@pytest.mark.parametrize("form", FORMS)
@torch.no_grad()
def test_moved_to_a_gpu_after_the_conversion(form: str) -> None:
    ann = Model(FORMS[form]).eval()
    ann.plain = ann.plain.cuda() if form == "constants" else ann.plain
    if form in ("grid", "cast like another"):
        pytest.skip("the ANN itself makes tensors on the CPU")
    snn = sjpc.ParallelConverter([IMAGES], **FINE).convert(Model(FORMS[form]).eval()).cuda()
    expected = ann.cuda()(IMAGES.cuda())
    torch.testing.assert_close(snn.predict(IMAGES.cuda()), expected, rtol=0, atol=0.01)
