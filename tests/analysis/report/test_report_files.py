"""Files are replaced when new ones are whole, other files are left alone, and bad arguments are refused at once."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import matplotlib
import pytest
import torch
from parsed_page import Page
from torch import nn

import sj_parallel_conversion as sjpc
from sj_parallel_conversion.analysis.report import svg
from sj_parallel_conversion.analysis.report.numbers import count, energy, percent, points, significant
from sj_parallel_conversion.analysis.report.origin import call_of, fingerprint, options_of

X = torch.randn(12, 6, generator=torch.Generator().manual_seed(0))
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)).eval()


ANN = network()


def convert(**options: object) -> sjpc.SpikingNetwork:
    return sjpc.ParallelConverter([X], show_progress=False, **{"time_steps": 2, **options}).convert(ANN)


@pytest.fixture(scope="module")
def snn() -> sjpc.SpikingNetwork:
    return convert()


def report(snn: nn.Module, folder: object, loader: object = (X,), ann: object = ANN, **options: object) -> sjpc.Report:
    return sjpc.report(snn, ann, loader, folder, show_progress=False, **options)


def test_a_second_report_replaces_the_first_and_nothing_else(snn: nn.Module, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    first = report(snn, tmp_path, title="first")
    second = report(snn, str(tmp_path), title="second")
    assert "second" in first.html.read_text() and "second" in second.json.read_text()
    assert sorted(os.listdir(tmp_path)) == ["metrics.json", "notes.txt", "report.html"]
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_failure_leaves_the_old_report(snn: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = report(snn, tmp_path, title="old")

    def fail(*args: object) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fail)
        with pytest.raises(sjpc.FileError, match=r"cannot be written to .*no space left"):
            report(snn, tmp_path, title="new")
    assert sorted(os.listdir(tmp_path)) == ["metrics.json", "report.html"]
    assert "old" in old.html.read_text() and "old" in old.json.read_text()


@pytest.mark.parametrize("library", ["jinja2", "matplotlib"])
def test_a_missing_library_names_the_extra(
    snn: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(sjpc.MissingExtraError, match=r"pip install 'sj-parallel-conversion\[report\]'") as caught:
        report(snn, tmp_path)
    assert isinstance(caught.value, ImportError)


POINT = {"mode": "css", "time_steps": 4, "accuracy": 0.9, "agreement": 0.8}
REFUSED = [
    ({"curve": 3}, "curve: got int. Give converted networks"),
    ({"curve": "css"}, "curve: got str"),
    ({"curve": [POINT, 3]}, r"curve\[1\]: got int"),
    ({"curve": [POINT | {"mode": "rate"}]}, "mode must be one of 'parallel'.* got 'rate'"),
    ({"curve": [POINT | {"time_steps": 0}]}, "time_steps must be an integer >= 1, got 0"),
    ({"curve": [POINT | {"accuracy": 91.0}]}, "accuracy must be None or a share from 0 to 1, got 91.0"),
    ({"curve": [POINT | {"agreement": True}]}, "agreement must be None or a share"),
    ({"curve": [{"mode": "css", "time_steps": 4}]}, "neither an accuracy nor an agreement"),
    ({"curve": {4: POINT}}, "keys of a dict name the lines and are strings, got 4"),
    ({"max_batches": 0}, "max_batches must be None or an integer >= 1, got 0"),
    ({"detail_batches": 1.5}, "detail_batches must be None or an integer >= 1"),
    ({"title": 3}, "title must be None or a string"),
    ({"device": {"mul": 1}}, "device: 'mul' is unknown"),
    ({"metrics": 3}, "metrics: 'int' is 3"),
    ({"ann": None}, "ann must be a torch.nn.Module, got NoneType"),
    ({"folder": ""}, "folder must be a path, got ''"),
    ({"folder": 3}, "folder must be a path, got 3"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED, ids=lambda value: str(value)[:40])
def test_bad_arguments(snn: nn.Module, tmp_path: Path, options: dict[str, object], message: str) -> None:
    folder = tmp_path / "new"
    with pytest.raises(sjpc.ConfigError, match=message):
        report(snn, **{"folder": folder, **options})
    assert not folder.exists()


def test_what_is_no_converted_network_or_no_data(snn: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(sjpc.DataError, match="report needs a converted network, got Sequential"):
        report(ANN, tmp_path)
    with pytest.raises(sjpc.DataError, match="int8"):
        report(sjpc.to_int8(snn), tmp_path)
    with pytest.raises(sjpc.DataError, match="dataloader is empty"):
        report(snn, tmp_path, [])
    file = tmp_path / "file"
    file.touch()
    for folder in (file, file / "below"):
        with pytest.raises(sjpc.FileError, match="is there already, and is no folder"):
            report(snn, folder)


def test_curves_of_every_form(snn: nn.Module, tmp_path: Path) -> None:
    def converted() -> Iterator[nn.Module]:
        yield from (convert(mode=mode, calibration="none") for mode in ("spikepack", "css"))

    points = (SimpleNamespace(**POINT), POINT | {"accuracy": None})
    forms = [points, iter(points), SimpleNamespace(curve=points), {"a": points[0], "b": [points[1]]}]
    for form in forms:
        found = report(snn, tmp_path, curve=form).metrics["curve"]
        assert [p["accuracy"] for p in found] == [None, 0.9, None] and {p["source"] for p in found[1:]} == {"given"}
    found = report(snn, tmp_path, curve=converted()).metrics["curve"]
    assert [(p["mode"], p["source"]) for p in found[1:]] == [("spikepack", "measured"), ("css", "measured")]


def test_figures_of_several_threads() -> None:
    """matplotlib has one set of settings for all threads."""
    before, plot = dict(matplotlib.rcParams), lambda figure: figure.subplots().plot([1, 2], label="a")
    expected = svg.draw("a", 100, "", plot)
    with ThreadPoolExecutor(4) as pool:
        drawn = list(pool.map(lambda i: svg.draw("a", 100, "", plot), range(12)))
    assert set(drawn) == {expected} and dict(matplotlib.rcParams) == before


def test_the_call_makes_the_same_network_again(snn: nn.Module) -> None:
    code = call_of(options_of(snn), [])
    names = {"sjpc": sjpc, "dataloader": [X], "ann": ANN}
    exec(code.replace("dataloader,", "dataloader, show_progress=False,"), names)
    assert fingerprint(names["snn"]) == fingerprint(snn)
    assert fingerprint(convert(time_steps=3)) != fingerprint(snn)
    assert "threshold='max'" in call_of(options_of(convert(threshold="max")), [])


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (percent(0.91833), "91.8 %"), (percent(0.5, 0), "50 %"), (percent(0.00012345, 2), "0.012 %"),
        (percent(0.0), "0.0 %"), (points(-0.0104), "−1.0 points"), (points(0.003), "+0.3 points"),
        (points(-0.0001), "+0.0 points"), (energy(999.7e3), "1 µJ"), (energy(38_849_100.0), "38.8 µJ"),
        (energy(0.0), "0 pJ"), (energy(0.25), "0.25 pJ"), (energy(4e15), "4,000 J"), (count(2_359_296.0), "2,359,296"),
        (count(2.25), "2.2"), (count(3.0), "3"), (significant(0.0123456), "0.0123"), (significant(12345.6), "12,346"),
    ],
)  # fmt: skip
def test_numbers_in_words(text: str, shown: str) -> None:
    assert text == shown


SIZES = """<script>
document.documentElement.style.width = "%dpx";
const boxes = [...document.querySelectorAll("svg.plot")].map(x => [x.id, x.clientWidth, x.clientHeight].join(" "));
document.title = [document.body.scrollWidth, ...boxes].join(";");
</script></body>"""


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")
@pytest.mark.parametrize("width", [400, 1400])
def test_a_browser_shows_every_picture(snn: nn.Module, tmp_path: Path, width: int) -> None:
    page = report(snn, tmp_path, curve=[POINT | {"accuracy": None}]).html.read_text()
    probe = tmp_path / "probe.html"
    # The page itself allows no scripts. No window is as narrow as a telephone, so its width is set.
    allowing = page.replace("default-src 'none'", "default-src 'unsafe-inline'")
    probe.write_text(allowing.replace("</body>", SIZES % width))
    quiet = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    quiet += "--disable-component-update --disable-sync --dump-dom --window-size=1400,900"
    command = [CHROMIUM, *quiet.split(), f"--user-data-dir={tmp_path / 'profile'}", probe.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    wide, *boxes = done.stdout.partition("<title>")[2].partition("</title>")[0].split(";")
    assert int(wide) <= width, "the page is wider than the window"
    sizes = {name: (int(w), int(h)) for name, w, h in map(str.split, boxes)}
    assert list(sizes) == list(Page(page).pictures()) and len(sizes) == 7
    assert all(300 < w <= width and h > 50 for w, h in sizes.values()), sizes
