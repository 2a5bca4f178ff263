"""A report has every picture, its numbers are those of the calls, and it needs nothing from outside."""

from __future__ import annotations

import json
import re
import sys
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

import matplotlib
import pytest
import torch
from in_parts import IMAGES, PARTS, detector
from in_parts import convert as convert_in_parts
from parsed_page import DRAWN, Page
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import sj_parallel_conversion as sjpc
from sj_parallel_conversion.functional import CODES

G = torch.Generator().manual_seed(0)
X, Y = torch.randn(24, 3, 8, 8, generator=G), torch.randint(0, 5, (24,), generator=G)
LOADER = [(x, y) for x, y in zip(X.split(10), Y.split(10), strict=True)]
EVIL = "<script>$alert$&'"
PICTURES = ["curve", "errors", "rates", "thresholds", "energy", "trains", "codes"]


def cnn(outputs: int = 5, second: str = EVIL) -> nn.Module:
    torch.manual_seed(0)
    layers = {"a": nn.Conv2d(3, 8, 3, padding=1), "relu": nn.ReLU(), "b": nn.Conv2d(8, 8, 3), second: nn.SiLU()}
    layers |= {"pool": nn.AdaptiveAvgPool2d(1), "flat": nn.Flatten(), "fc": nn.Linear(8, outputs)}
    return nn.Sequential(OrderedDict(layers)).eval()


def convert(ann: nn.Module, loader: object = LOADER, **options: object) -> sjpc.SpikingNetwork:
    return sjpc.ParallelConverter(loader, show_progress=False, **{"time_steps": 2, **options}).convert(ann)


def report(snn: nn.Module, ann: nn.Module, folder: Path, loader: object = LOADER, **options: object) -> sjpc.Report:
    return sjpc.report(snn, ann, loader, folder, show_progress=False, **options)


@pytest.fixture(scope="module")
def networks() -> tuple[nn.Module, sjpc.SpikingNetwork]:
    ann = cnn()
    return ann, convert(ann)


@pytest.fixture(scope="module")
def made(networks: tuple, tmp_path_factory: pytest.TempPathFactory) -> tuple[sjpc.Report, Page]:
    ann, snn = networks
    given = {"mode": "parallel", "time_steps": 16, "accuracy": 0.5, "agreement": None}
    curve = {"sorted": [given, snn], "other": convert(ann, mode="css")}
    found = report(snn, ann, tmp_path_factory.mktemp("report") / "new" / "folder", curve=curve, title="A <b> & co")
    return found, Page(found.html.read_text())


def numbers_in(value: object) -> Iterator[float]:
    if isinstance(value, (dict, list)):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from numbers_in(inner)
    elif isinstance(value, (int, float)):
        yield float(value)


def test_every_picture_is_there_and_drawn(made: tuple[sjpc.Report, Page]) -> None:
    page = made[1]
    pictures = page.pictures()
    assert list(pictures) == PICTURES and page.tags.count("figure") == len(PICTURES)
    for name, picture in pictures.items():
        drawn = [element for element in picture.iter() if element.tag in DRAWN]
        assert len(drawn) > 10 and picture.get("role") == "img" and len(picture.get("aria-label")) > 20, name
        assert [float(x) > 0 for x in picture.get("viewBox").split()] == [False, False, True, True]
    assert not re.search(r"#00000\d", page.html)  # each colour follows the page's
    ids = [value for _, name, value in page.attributes if name == "id"]
    used = re.findall(r'href="#([^"]+)|url\(#([^)]+)', page.html)
    assert len(set(ids)) == len(ids) and {a or b for a, b in used} <= set(ids)


def test_nothing_comes_from_outside(made: tuple[sjpc.Report, Page]) -> None:
    page = made[1]
    targets = [value for _, name, value in page.attributes if name in ("src", "href", "data", "action", "srcset")]
    assert all(value.startswith("#") for value in targets)
    assert not {"script", "link", "iframe", "object", "base"} & set(page.tags)
    assert "://" not in page.html and "@import" not in page.html and not re.search(r"url\((?!#)", page.html)


def test_numbers_of_the_page_are_those_of_the_metrics(made: tuple[sjpc.Report, Page]) -> None:
    found, page = made
    assert json.loads(found.json.read_text()) == found.metrics
    known = set(numbers_in(found.metrics))
    assert len(page.numbers) > 90 and {value for value, _ in page.numbers} <= known
    for value, shown in page.numbers:
        digits, *unit = shown.replace(",", "").replace("−", "-").split()
        factor = {"%": 0.01, "points": 0.01, "nJ": 1e3, "µJ": 1e6, "mJ": 1e9, "J": 1e12}.get("".join(unit[:1]), 1)
        assert float(digits) * factor == pytest.approx(value, rel=6e-3, abs=0.0051 if "%" in unit else 0.051), shown


def test_metrics_are_those_of_the_calls(made: tuple[sjpc.Report, Page], networks: tuple) -> None:
    (ann, snn), metrics = networks, made[0].metrics
    quiet = {"show_progress": False}
    found, of_ann = sjpc.evaluate(snn, LOADER, ann=ann, **quiet), sjpc.evaluate(ann, LOADER, **quiet)
    results = metrics["results"]
    assert (results["accuracy"], results["agreement"]) == (found.accuracy, found.agreement)
    assert results["ann_accuracy"] == of_ann.accuracy and metrics["data"]["samples"] == 24
    rows = sjpc.layer_errors(snn, ann, LOADER, **quiet).rows
    assert metrics["errors"] == [vars(row) for row in rows] and results["output_error"] == rows[-1].after
    count = sjpc.count_operations(snn, LOADER, **quiet)
    operations = metrics["operations"]
    assert operations["layers"] == [vars(row) for row in count.rows]
    assert operations["energy_pj"]["memory_int8"] == [count.energy["snn_int8_memory"], count.energy["ann_int8_memory"]]
    assert operations["energy_share"]["arithmetic"] == count.energy["snn"] / count.energy["ann"]
    assert operations["firing_rate"] == count.firing_rate
    thresholds = [site.node.v_threshold for site in snn.neurons()]
    for row, v_threshold in zip(metrics["neurons"], thresholds, strict=True):
        assert row["v_threshold"][::2] == [float(v_threshold.min()), float(v_threshold.max())]
        assert row["firing_rate"] == pytest.approx({r.name: r.rate for r in rows}[row["name"]])


def test_points_of_the_curve(made: tuple[sjpc.Report, Page], networks: tuple) -> None:
    own, given, other = made[0].metrics["curve"]
    assert [p["source"] for p in (own, given, other)] == ["this network", "given", "measured"]
    assert [p["line"] for p in (own, given, other)] == ["sorted", "sorted", "other"]
    assert (given["mode"], given["time_steps"], given["accuracy"]) == ("parallel", 16, 0.5)
    expected = sjpc.evaluate(convert(networks[0], mode="css"), LOADER, ann=networks[0], show_progress=False)
    assert (other["mode"], other["accuracy"], other["agreement"]) == ("css", expected.accuracy, expected.agreement)


def test_text_of_users_is_text(made: tuple[sjpc.Report, Page]) -> None:
    page = made[1]
    assert "<script" not in page.html and page.text.count(EVIL) >= 6  # in tables, and in four pictures
    assert made[0].metrics["title"] == "A <b> & co" and page.text.count("A <b> & co") == 2


def test_trains_are_those_of_the_network(made: tuple[sjpc.Report, Page], networks: tuple) -> None:
    snn, metrics = networks[1], made[0].metrics
    trains: dict[str, Tensor] = {}
    names = ["relu", EVIL]
    hooks = [
        site.node.register_forward_hook(lambda m, a, y, name=name: trains.update({name: y}))
        for name, site in zip(names, snn.neurons(), strict=True)
    ]
    snn.predict(X[:1])
    for hook in hooks:
        hook.remove()
    assert [layer["name"] for layer in metrics["trains"]] == names
    for layer in metrics["trains"]:
        assert len(layer["neurons"]) == 8 and any(neuron["level"] for neuron in layer["neurons"])
        for neuron in layer["neurons"]:
            assert trains[layer["name"]][(slice(None), *neuron["index"])].tolist() == neuron["train"]
            assert sum(neuron["train"]) == neuron["level"]
    shown = next(layer for layer in metrics["trains"] if layer["name"] == metrics["codes"]["layer"])
    for code in metrics["codes"]["trains"]:
        highest = sum(code["weights"])
        assert code["weights"] == CODES[code["code"]].weights(code["time_steps"]) and highest == code["max_level"]
        for neuron, own in zip(code["neurons"], shown["neurons"], strict=True):
            train = zip(code["weights"], neuron["train"], strict=True)
            assert sum(weight * symbol for weight, symbol in train) == neuron["level"]
            assert abs(neuron["level"]) == highest or abs(
                neuron["level"] / highest - own["value"] / shown["max_level"]
            ) <= 0.5 / highest + 1e-6


def test_what_is_said_without_labels_and_without_a_curve(networks: tuple, tmp_path: Path) -> None:
    ann, snn = networks
    found = report(snn, ann, tmp_path, [x for x, _ in LOADER])
    page = Page(found.html.read_text())
    assert list(page.pictures()) == PICTURES[1:] and "Only this network is shown" in page.text
    assert "no class labels" in page.text and found.metrics["results"]["accuracy"] is None
    assert found.metrics["results"]["agreement"] == sjpc.evaluate(snn, LOADER, ann=ann, show_progress=False).agreement
    assert "agreement with the ANN" in str(found) and "accuracy:" not in str(found) and str(found.html) in str(found)


def test_outputs_that_are_no_classes(tmp_path: Path) -> None:
    ann = cnn(outputs=1)
    metrics = {"mae": lambda y, target: (y - target).abs().mean()}
    loader = [(X, torch.zeros(24, 1))]
    found = report(convert(ann, loader), ann, tmp_path, loader, metrics=metrics)
    page = Page(found.html.read_text())
    assert found.metrics["results"]["agreement"] is None and "Error of the output" in page.text
    by_hand = sjpc.evaluate(ann, loader, metrics=metrics, show_progress=False).metrics["mae"]
    assert found.metrics["results"]["metrics"]["mae"][1] == by_hand and "mae" in page.text


def test_a_model_in_parts(tmp_path: Path) -> None:
    model = detector()
    with pytest.warns(UserWarning, match="became accumulates"):
        snn = convert_in_parts(model, PARTS)
    found = report(snn, model, tmp_path, [IMAGES])
    page = Page(found.html.read_text())
    assert found.metrics["network"]["parts"] == PARTS and "converted in parts" in page.text
    assert found.metrics["results"]["agreement"] is None and found.metrics["data"]["samples"] == len(IMAGES)
    assert f"submodules={PARTS!r}" in found.metrics["conversion"]["call"]
    errors = {row["name"] for row in found.metrics["errors"]}
    assert {row["name"] for row in found.metrics["neurons"]} <= errors
    assert {layer["name"] for layer in found.metrics["trains"]} <= errors and len(page.pictures()) == 6


def test_many_layers_and_a_long_window(tmp_path: Path) -> None:
    torch.manual_seed(0)
    ann = nn.Sequential(*(m for _ in range(42) for m in (nn.Linear(8, 8), nn.ReLU())), nn.Linear(8, 3)).eval()
    x = torch.randn(8, 8, generator=G)
    snn = convert(ann, [x], time_steps=200, calibration="none")
    page = Page(report(snn, ann, tmp_path, [x]).html.read_text())
    assert "layers from input to output" in page.text and "the last 128" in page.text


def test_limits_and_a_loader_that_shuffles(networks: tuple, tmp_path: Path) -> None:
    ann, snn = networks
    loader = DataLoader(TensorDataset(X, Y), batch_size=5, shuffle=True)
    found = [report(snn, ann, tmp_path, loader, max_batches=3, detail_batches=2).metrics for _ in range(2)]
    assert found[0]["data"] == {"samples": 15, "detail_batches": 2, "detail_samples": 10}
    for part in ("errors", "trains"):
        assert found[0][part] == found[1][part]
    assert found[0]["results"]["accuracy"] == found[1]["results"]["accuracy"]


def settings_of_matplotlib() -> dict[str, object]:
    """All but the backend, which imports pyplot when it is read."""
    return {name: matplotlib.rcParams[name] for name in matplotlib.rcParams if name != "backend"}


def test_the_network_the_ann_and_matplotlib_stay_as_they_were(
    networks: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ann, snn = networks
    monkeypatch.delitem(sys.modules, "matplotlib.pyplot", raising=False)
    monkeypatch.setitem(matplotlib.rcParams, "axes.facecolor", "red")
    settings, state = settings_of_matplotlib(), {k: v.clone() for k, v in snn.state_dict().items()}
    ann.train()
    page = report(snn, ann, tmp_path, LOADER).html.read_text()
    assert ann.training and not any(m._forward_hooks or m._forward_pre_hooks for m in [*snn.modules(), *ann.modules()])
    ann.eval()
    assert all(torch.equal(state[k], v) for k, v in snn.state_dict().items())
    assert settings_of_matplotlib() == settings and "#ff0000" not in page
    assert "matplotlib.pyplot" not in sys.modules
