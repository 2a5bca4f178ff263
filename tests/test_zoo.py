"""The zoo's script, on small networks of torchvision: they convert, and what it writes can be read again."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torchvision")
import zoo


@pytest.mark.parametrize("name", ["shufflenet_v2_x0_5", "mobilenet_v3_small", "lraspp_mobilenet_v3_large"])
def test_converts(name: str) -> None:
    line = zoo.measure(name, ["css, T=8, bias 1"])
    assert line["packed_equals_spikes"] and line["layers"] > 30
    assert line["errors"]["css, T=8, bias 1"] < 0.01


def test_results_are_merged_and_not_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def measure(name: str, settings: list[str]) -> dict[str, object]:
        calls.append((name, settings))
        if name == "vgg11" and len(calls) < 4:
            raise RuntimeError("out of memory\nmore")
        facts = {"model": name, "family": zoo.family_of(name), "input": [3, 8, 8], "layers": 2, "activations": ["ReLU"]}
        return {**facts, "errors": dict.fromkeys(settings, 0.012), "packed_equals_spikes": True}

    monkeypatch.setattr(zoo, "measure", measure)
    results = tmp_path / "out" / "zoo.jsonl"
    zoo.run_all(["vgg11", "alexnet", "r3d_18"], ["css, T=8"], results)
    assert [name for name, _ in calls] == ["r3d_18", "alexnet", "vgg11"]  # small ones first
    zoo.run_all(["vgg11", "alexnet"], ["css, T=8", "css, T=12"], results)
    assert calls[3:] == [("alexnet", ["css, T=12"]), ("vgg11", ["css, T=8", "css, T=12"])]
    text = zoo.table(zoo.read(results))
    assert "## classification: 2 of" in text and "## segmentation: 0 of" in text
    assert "| alexnet | 3x8x8 | 2 | ReLU | 1.2 |  | 1.2 |" in text


def test_failures_stand_in_the_table() -> None:
    assert "out of memory" in zoo.table([{"model": "vgg11", "family": "classification", "failed": "out of memory"}])
