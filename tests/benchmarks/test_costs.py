"""The benchmarks of conversions, of rivals and of event-driven execution, on small networks."""

from __future__ import annotations

from pathlib import Path

import benchmark_rivals
import numpy as np
import pytest
import torch
from benchmark_rivals import rivals
from conversion_cost import imagenet_images, passes
from event_driven import activity, gain
from torch import nn

import sj_parallel_conversion as sjpc


def two_convs() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 5))


def converted(ann: nn.Module, x: torch.Tensor) -> sjpc.SpikingNetwork:
    return sjpc.ParallelConverter([x], time_steps=4, calibration="none", show_progress=False).convert(ann)


def test_passes() -> None:
    ann, loader, calls = nn.Linear(256, 256), [torch.ones(512, 256)] * 4, []
    cold, warm = passes(ann, loader, calls.append, runs=2)
    assert len(calls) == 3 and 0 <= warm and 0 <= cold


def test_images_come_again_mirrored(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    folder = tmp_path / "imagenet" / "calibration" / "7"
    folder.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    image.fromarray(pixels).save(folder / "a.jpg")
    x = imagenet_images(tmp_path, 2, 16)
    assert x.shape == (2, 3, 16, 16) and torch.equal(x[1].roll(-8, 1), x[0].flip(2))


def test_rivals_give_what_the_ann_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name)
    monkeypatch.setattr(benchmark_rivals.torch, "compile", lambda ann: ann)  # a minute
    ann, x = two_convs().eval(), torch.randn(4, 3, 8, 8)
    with torch.no_grad():
        expected = ann(x)
        found = {name: torch.as_tensor(run(x)) for name, run in rivals(ann, converted(ann, x), x, tmp_path).items()}
    assert len(found) >= 4
    for name, y in found.items():
        assert (y - expected).norm() < (0.5 if "integers" in name else 0.1) * expected.norm(), name


@torch.no_grad()
def test_activity_is_the_share_of_spikes() -> None:
    x = torch.randn(4, 3, 8, 8)
    snn = converted(two_convs().eval(), x)
    trains: list[torch.Tensor] = []
    snn.net.get_submodule("1").node.register_forward_hook(lambda module, args, output: trains.append(output))
    found = activity(snn, x)
    snn.execution = "spikes"
    snn.predict(x)
    assert list(found) == ["2"]
    layer, shape, (values, rows, blocks) = found["2"]
    assert shape == (4, 8, 6, 6) and values == pytest.approx(float((trains[-1] != 0).float().mean()))
    assert values < rows <= blocks <= 1
    assert gain(layer, shape, 0.5) > 0
