"""Results do not depend on the units of a network: its inputs times any factor, the same relative error."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import sj_parallel_conversion as sjpc
from sj_parallel_conversion.ann2snn.calibration.magnitude import magnitude

FACTORS = [2.0**83, 2.0**-83]  # 1e25 to 1e-25; powers of two, so that only ours can round
OPTIONS = [
    *({"calibration": c} for c in ("none", "da_qcfs", "least_squares", "weights")),
    *({"calibration": c, "threshold": t} for c, t in (("none", "max"), ("none", "99%"), ("weights", "99%"))),
    {"calibration": "weights", "distillation_epochs": 2},
    {"calibration": "weights", "distillation_epochs": 2, "fold": False},
]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.head = nn.Conv2d(3, 8, 3, bias=False), nn.Linear(8, 4, bias=False)
        self.a, self.b = (nn.Conv2d(8, 8, 3, padding=1, bias=False) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x).relu()
        x = (self.b(self.a(x).relu()) + x).relu()
        return self.head(x.mean((2, 3)))


@pytest.mark.parametrize("mode", ["parallel", "css"])
@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "-".join(map(str, o.values())))
@torch.no_grad()
def test_units_do_not_matter(options: dict[str, object], mode: str) -> None:
    ann, x = Net().eval(), torch.randn(24, 3, 8, 8, generator=torch.Generator().manual_seed(1))

    def result(factor: float) -> torch.Tensor:
        converter = sjpc.ParallelConverter(list((factor * x).split(12)), mode=mode, show_progress=False, **options)
        return converter.convert(ann).predict(factor * x).double() / factor

    reference, y = result(1.0), ann(x)
    error = float((reference - y).square().sum() / y.square().sum())
    assert error < 0.05
    for factor in FACTORS:
        scaled = result(factor)
        assert float((scaled - y).square().sum() / y.square().sum()) == pytest.approx(error, rel=0.05, abs=1e-6)


def test_magnitude_is_a_power_of_two_and_divides_exactly() -> None:
    x = torch.tensor([3.0, 4.0, 1e-37, 3.4e38, 0.0, float("inf")])
    unit = magnitude(x)
    assert unit.tolist()[:2] == [2.0, 4.0] and unit.tolist()[4:] == [1.0, 1.0]
    ratio = (x / unit)[:4]
    assert (ratio >= 1).all() and (ratio < 2).all() and torch.equal(ratio * unit[:4], x[:4])
