"""The table of layers: what it says, and that looking changes nothing."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import torchvision
from in_parts import PARTS, detector
from in_parts import convert as convert_in_parts
from spikingjelly.activation_based import monitor
from torch import Tensor, nn
from torch.nn import functional as F

import sj_parallel_conversion as sjpc

IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Mixed(nn.Module):
    """A gate, a linear bottleneck and a normalisation that stays."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.gate = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1)
        self.down, self.up, self.head = nn.Conv2d(4, 2, 1), nn.Conv2d(2, 4, 1), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(F.max_pool2d(self.stem(x), 2)))
        x = self.up(self.down(x * torch.sigmoid(self.gate(x))))
        return self.head(F.layer_norm(x.mean((2, 3)), (4,)))


def mixed(**options: object) -> sjpc.SpikingNetwork:
    torch.manual_seed(0)
    return sjpc.ParallelConverter([IMAGES], time_steps=4, show_progress=False, **options).convert(Mixed().eval())


def test_rows_and_totals() -> None:
    report = sjpc.inspect(mixed(), show=False)
    rows = {row.name: row for row in report.rows}
    assert {name: (row.kind, row.receives, row.macs) for name, row in rows.items()} == {
        "stem": ("layer", ("input",), 36 * 27 * 4),
        "max_pool2d": ("analogue", ("current",), 0),
        "norm": ("scale", ("analogue",), 0),
        "relu": ("node", ("analogue",), 0),
        "gate": ("layer", ("spikes",), 9 * 16),
        "sigmoid": ("node", ("current",), 0),
        "mul": ("product", ("spikes",), 0),
        "down": ("layer", ("current",), 9 * 8),
        "up": ("layer", ("current",), 9 * 8),
        "mean": ("pooling", ("current",), 0),
        "layer_norm": ("normalisation", ("current",), 0),
        "head": ("layer", ("analogue",), 20),
    }
    assert report.macs == 3888 + 144 + 72 + 72 + 20 and report.input_macs == 3888 and report.accumulates == 144
    assert report.share == 144 / report.macs and report.share_after_input == 144 / (144 + 72 + 72 + 20)
    assert [row.name for row in report.analogue] == ["max_pool2d"]
    assert [row.name for row in report.normalisations] == ["layer_norm"] and "1 normalisations" in str(report)
    assert [row.name for row in report.graded] == ["down", "up", "head"]
    assert rows["gate"].spikes_in and not rows["down"].spikes_in
    low, high = rows["relu"].v_threshold
    assert 0 < low < high and rows["stem"].v_threshold is None


def test_spiking_inputs_turn_all_layers_into_accumulates() -> None:
    report = sjpc.inspect(mixed(spiking_inputs=True), show=False)
    assert report.share_after_input == 1 and report.graded == ()
    assert [row.name for row in report.analogue] == ["max_pool2d"]
    assert [row.name for row in report.normalisations] == ["layer_norm"] and "1 normalisations" in str(report)


def test_it_prints(capsys: pytest.CaptureFixture) -> None:
    report = sjpc.inspect(mixed())
    printed = capsys.readouterr().out
    assert printed == f"{report}\n" and "max_pool2d" in printed and "layers that receive graded values: down" in printed
    sjpc.inspect(mixed(), show=False)
    assert capsys.readouterr().out == ""


def test_copies_and_inputs() -> None:
    snn = mixed()
    expected = sjpc.inspect(snn, show=False)
    for other in (copy.deepcopy(snn), pickle.loads(pickle.dumps(snn))):
        assert sjpc.inspect(other, show=False) == expected
    assert pickle.loads(pickle.dumps(expected)) == expected
    assert sjpc.inspect(snn, IMAGES, show=False) == expected  # counts are for one sample
    assert sjpc.inspect(snn, torch.zeros(1, 3, 16, 16), show=False).macs > expected.macs


def test_looking_changes_nothing() -> None:
    snn = mixed()
    record = monitor.OutputMonitor(snn, sjpc.ParallelConversionNode)
    first = snn(IMAGES)
    seen, fastpath = len(record.records), torch.backends.mha.get_fastpath_enabled()
    sjpc.inspect(snn, show=False)
    assert len(record.records) == seen and snn.execution == "spikes" and snn.step == 1
    assert torch.backends.mha.get_fastpath_enabled() == fastpath
    assert first.shape == snn(IMAGES).shape


def test_torch_s_counter_knows_the_layers() -> None:
    ann = torchvision.models.squeezenet1_1(weights=None).eval()
    converter = sjpc.ParallelConverter([torch.randn(1, 3, 64, 64)], calibration="none", show_progress=False)
    report = sjpc.inspect(converter.convert(ann), show=False)
    shapes: dict[str, int] = {}
    for name, module in ann.named_modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(
                lambda m, a, y, name=name: shapes.update({name: y[0].numel() * m.weight[0].numel()})
            )
    ann(torch.zeros(1, 3, 64, 64))
    assert {row.name: row.macs for row in report.rows if row.macs} == shapes


@pytest.mark.parametrize("thing", [Mixed(), "snn"])
def test_only_converted_networks(thing: object) -> None:
    with pytest.raises(sjpc.DataError, match="needs a converted network"):
        sjpc.inspect(thing)


class Looped(nn.Module):
    """Calls one part once for each image, between layers that stay analogue."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.part = nn.Conv2d(3, 4, 1), nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1))
        self.weight = nn.Parameter(torch.ones(2, 3))

    def forward(self, images: list[Tensor]) -> list[Tensor]:
        return [self.part(self.before(x[None])).mean((2, 3)) @ self.weight for x in images]


def test_partly_converted_models() -> None:
    converter = sjpc.ParallelConverter([list(IMAGES)], time_steps=4, show_progress=False)
    snn = converter.convert(Looped(), submodules=["part"])
    report = sjpc.inspect(snn, show=False)
    assert {row.name: (row.kind, row.receives, row.macs) for row in report.rows} == {
        "before": ("analogue", ("analogue",), 64 * 12),
        "part.0": ("layer", ("analogue",), 64 * 16),
        "part.1": ("node", ("current",), 0),
        "part.2": ("layer", ("spikes",), 64 * 8),
        "(other operations)": ("analogue", ("analogue",), 6),
    }
    assert report.accumulates == 64 * 8
    assert sjpc.inspect(pickle.loads(pickle.dumps(snn)), show=False) == report
    assert sjpc.inspect(snn, list(IMAGES), show=False) == report


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.filterwarnings("ignore:only")
def test_after_a_cast(dtype: torch.dtype) -> None:
    for snn in (mixed(), convert_in_parts(detector(), PARTS)):
        expected = sjpc.inspect(snn, show=False)
        cast = sjpc.inspect(snn.to(dtype), show=False)
        assert [(row.name, row.macs) for row in cast.rows] == [(row.name, row.macs) for row in expected.rows]
