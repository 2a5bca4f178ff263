"""The GPU's benchmark runs on a CPU with tiny sizes, so that it works when a GPU is there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

pytest.importorskip("torchvision")
import gpu
from gpu_sections import Line, measured, tiny


def test_all_sections_on_tiny_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(gpu.SECTIONS, "tests", lambda sizes: iter([Line("GPU tests", "pytest", 1.0, "s")]))
    gpu.main(["--tiny", "--minutes", "inf", "--json", str(tmp_path / "gpu.json")])
    found = json.loads((tmp_path / "gpu.json").read_text())
    lines = [Line(**line) for line in found["lines"]]
    assert [line for line in lines if line.note] == []
    sections = {line.section for line in lines}
    assert {"GPU tests", "kernels", "2 x 32, torch.float32", "one layer of neurons, T=4"} <= sections
    assert {line.what for line in lines if line.section == "2 x 32, torch.float16"} >= {"ANN", "packed", "spikes, T=4"}
    assert any(line.what.startswith("SpikingJelly, step mode") for line in lines)
    assert all(line.value > 0 for line in lines)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so() -> None:
    with pytest.raises(SystemExit, match="no CUDA GPU; --tiny"):
        gpu.main([])


def test_what_fails_is_a_line() -> None:
    runs = {"good": lambda: lambda: None, "bad": lambda: 1 / 0}
    good, bad = measured("section", runs, tiny())
    assert good.ratio == 1.0 and bad.value is None and bad.note == "ZeroDivisionError: division by zero"
    assert gpu.text_of(bad) == "| section | bad |  |  | ZeroDivisionError: division by zero |"


def test_time_that_is_over_is_a_line() -> None:
    (line,) = gpu.lines_of("nodes", tiny(), 0.0)
    assert line.note == "not finished: the time is over"
