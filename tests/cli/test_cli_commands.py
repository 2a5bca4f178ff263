"""The commands of ``sjpc``: they do what the package's functions do."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_files import Commands, Done, state_dict, write_files
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import sj_parallel_conversion as package
from sj_parallel_conversion.cli import commands, main

NET = ["nets_here.py:tiny", "--weights", "tiny.pt"]
OPTIONS = {"time_steps": 3, "calibration": "none", "seed": 4}
FLAGS = [word for name, value in OPTIONS.items() for word in (f"--{name.replace('_', '-')}", str(value))]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``tiny.sjpc``, as ``sjpc convert`` writes it, and ``4.sjpc``, of another number of steps."""
    folder = tmp_path_factory.mktemp("made")
    write_files(folder)
    net = [f"{folder}/nets_here.py:tiny", "--weights", f"{folder}/tiny.pt", "--no-show-progress"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", sys.path.copy())
        patch.delitem(sys.modules, "nets_here", raising=False)
        for name, more in (("tiny", []), ("4", ["--time-steps", "4"])):
            words = ["convert", *net, f"{folder}/train.npz", *FLAGS, *more, "--output", f"{folder}/{name}.sjpc"]
            assert main(words) == 0
    sys.modules.pop("nets_here", None)
    return folder


@pytest.fixture
def saved(made: Path, folder: Path) -> Path:
    """The working folder, with the files of :func:`made`."""
    for name in ("tiny.sjpc", "4.sjpc"):
        shutil.copy(made / name, folder / name)
    return folder


@pytest.fixture
def ann() -> nn.Module:
    """The ANN of :data:`NET`, made without the command line."""
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    net.load_state_dict(state_dict())
    return net.eval()


def images() -> tuple[torch.Tensor, torch.Tensor]:
    """Those of ``train.npz``, normalised without the command line."""
    with np.load("train.npz") as arrays:
        x = torch.from_numpy(arrays["images"]).permute(0, 3, 1, 2).float() / 255
        mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        return (x - mean.view(3, 1, 1)) / std.view(3, 1, 1), torch.from_numpy(arrays["labels"])


def without_speed(text: str) -> list[str]:
    """The lines of evaluations, up to the speed."""
    return re.findall(r"^(.*), [\d,]+ samples/s$", text, re.MULTILINE)


def failed(done: Done, code: int, message: str) -> bool:
    """Whether a command failed with one line, which has ``message`` in it."""
    return done.code == code and done.err.startswith("sjpc: ") and done.err.count("\n") == 1 and message in done.err


def test_convert_does_what_a_converter_does(saved: Path, ann: nn.Module) -> None:
    x, _ = images()
    order = torch.randperm(40, generator=torch.Generator().manual_seed(4))
    loader = DataLoader(TensorDataset(x[order]), 64)
    expected = package.ParallelConverter(loader, show_progress=False, **OPTIONS).convert(ann)
    snn = package.load("tiny.sjpc")
    assert snn.config.as_dict() == package.ConversionConfig(**OPTIONS, show_progress=False).as_dict()
    assert torch.equal(snn.predict(x), expected.predict(x))


def test_convert_names_the_file_and_evaluates(sjpc: Commands, folder: Path, ann: nn.Module) -> None:
    done = sjpc("convert", *NET, "train.npz", *FLAGS, "--images", "16", "--test", "train.npz")
    assert done.code == 0, done.err
    assert "train.npz, 16 of 40: size as it is" in done.out and "\nConverted: 1 layer of neurons, T = 3." in done.out
    assert "\nsaved: tiny.sjpc\n" in done.out
    x, y = images()
    snn, loader = package.load("tiny.sjpc"), [(x, y)]
    expected = [f"ANN: {package.evaluate(ann, loader)}", f"SNN, T = 3: {package.evaluate(snn, loader, ann=ann)}"]
    assert without_speed(done.out) == without_speed("\n".join(expected)) and len(expected) == 2


def test_convert_from_a_yaml_file(sjpc: Commands, folder: Path) -> None:
    (folder / "c.yaml").write_text(
        "ann: nets_here.py:tiny\nmodel_args: {classes: 5}\ndata: nets_here.py:batches\noutput: five.sjpc\n"
        "calibration: none\nshow_progress: false\n"
    )
    done = sjpc("convert", "--config", "c.yaml", "--time-steps", "2")
    assert (done.code, done.out) == (0, "saved: five.sjpc\n")
    assert package.load("five.sjpc").predict(torch.rand(2, 3, 8, 8)).shape == (2, 5)


def test_a_model_in_parts(sjpc: Commands, folder: Path) -> None:
    net = ["nets_here.py:Branches"]
    whole = sjpc("convert", *net, "train.npz")
    assert failed(whole, 1, "submodules")
    done = sjpc("convert", *net, "train.npz", "--submodules", "body", "--calibration", "none", "--time-steps", "2")
    assert done.code == 0 and "saved: Branches.sjpc" in done.out
    assert failed(sjpc("inspect", "Branches.sjpc"), 1, "In this command: --ann MODEL")
    assert "accumulates" in sjpc("inspect", "Branches.sjpc", "--ann", *net).out
    assert "agreement with the ANN" in sjpc("evaluate", "Branches.sjpc", "train.npz", "--ann", *net).out


def test_evaluate(saved: Path, sjpc: Commands, ann: nn.Module) -> None:
    x, y = images()
    snn = package.load("tiny.sjpc")
    alone, both = package.evaluate(snn, [(x, y)]), package.evaluate(snn, [(x, y)], ann=ann)
    done = sjpc("evaluate", "tiny.sjpc", "train.npz", "--no-show-progress")
    assert done.code == 0 and without_speed(done.out) == without_speed(f"SNN, T = 3: {alone}")
    done = sjpc("evaluate", "tiny.sjpc", "train.npz", "--ann", *NET, "--execution", "packed", "--batch-size", "7")
    expected = f"ANN: {package.evaluate(ann, [(x, y)])}\nSNN, T = 3: {both}"
    assert done.code == 0 and without_speed(done.out) == without_speed(expected)


def test_inspect(saved: Path, sjpc: Commands) -> None:
    expected = str(package.inspect(package.load("tiny.sjpc"), show=False))
    assert sjpc("inspect", "tiny.sjpc") == (0, f"{expected}\n", "")


def test_report(saved: Path, sjpc: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(package, "report", lambda *a, **k: calls.append((*a, k)) or "all figures", raising=False)
    assert sjpc("report", "tiny.sjpc", *NET, "train.npz").out.endswith("\nall figures\n")
    more = ["--folder", "here", "--curve", "4.sjpc", "--detail-batches", "2", "--no-show-progress"]
    assert sjpc("report", "tiny.sjpc", *NET, "train.npz", *more).code == 0
    (snn, ann, loader, folder, options), (_, _, _, here, others) = calls
    assert (snn.time_steps, type(ann), len(loader.dataset), folder) == (3, nn.Sequential, 40, "report")
    assert options == {"curve": None, "detail_batches": None, "show_progress": True} and here == "here"
    assert [net.time_steps for net in others.pop("curve")] == [3, 4]
    assert others == {"detail_batches": 2, "show_progress": False}


def test_suggest(saved: Path, sjpc: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    class Suggestion:
        network = package.load("4.sjpc")

        def __str__(self) -> str:
            return "T = 4"

    calls = []
    monkeypatch.setattr(
        package, "suggest_time_steps", lambda *a, **k: calls.append((*a, k)) or Suggestion(), raising=False
    )
    done = sjpc("suggest", *NET, "train.npz", "--images", "30")
    assert done.code == 0 and done.out.endswith("\nT = 4\n")
    more = ["--modes", "css", "parallel", "--time-steps", "2", "4", "--cost", "time", "--no-fold", "--device", "cpu"]
    assert sjpc("suggest", *NET, "train.npz", "--tolerance", "0.02", *more, "--output", "s.sjpc").code == 0
    assert package.load("s.sjpc").time_steps == 4
    (ann, loader, plain), (_, _, given) = calls
    assert type(ann) is nn.Sequential and len(loader.dataset) == 30
    usual = package.ConversionConfig().as_dict() | {"tolerance": 0.01, "cost": "spikes", "time_steps": None}
    usual["device"] = commands._device(None)
    del usual["mode"]
    assert plain == usual
    chosen = {"tolerance": 0.02, "cost": "time", "modes": ["css", "parallel"], "time_steps": [2, 4], "fold": False}
    assert given == usual | chosen | {"device": "cpu"}


def test_nothing_to_suggest(folder: Path, sjpc: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    def none_found(*_: object, **__: object) -> None:
        raise package.ConversionError("no setting is within tolerance=0.01\nmode  T\ncss   4")

    monkeypatch.setattr(package, "suggest_time_steps", none_found, raising=False)
    done = sjpc("suggest", *NET, "train.npz")
    assert failed(done, 1, "no setting is within tolerance=0.01\n") and done.out.endswith("\nmode  T\ncss   4\n")
    assert failed(sjpc("suggest", *NET, "train.npz", "--mode", "css"), 2, "unrecognized arguments: --mode css")


FORMS = {
    "onnx": ("export_onnx", {}, "tiny.onnx"),
    "onnx-int8": ("export_onnx", {"integers": True}, "tiny.onnx"),
    "integers": ("export_integers", {}, "tiny"),
}


@pytest.mark.parametrize("form", FORMS)
def test_export(saved: Path, sjpc: Commands, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    function, options, path = FORMS[form]
    calls = []
    monkeypatch.setattr(package, function, lambda *a, **k: calls.append((*a, k)), raising=False)
    assert sjpc("export", "tiny.sjpc", "--format", form) == (0, f"exported: {path}\n", "")
    assert sjpc("export", "tiny.sjpc", "--format", form, "--output", "x").out == "exported: x\n"
    assert [(snn.time_steps, *rest) for snn, *rest in calls] == [(3, Path(path), options), (3, Path("x"), options)]


def test_export_of_a_module_of_torch(saved: Path, sjpc: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(package, "to_torch", lambda snn: nn.Linear(snn.time_steps, 1), raising=False)
    assert sjpc("export", "tiny.sjpc", "--format", "torch").out == "exported: tiny.pt\n"
    assert torch.load("tiny.pt", weights_only=False).in_features == 3


def test_demo(sjpc: Commands, folder: Path) -> None:
    pytest.importorskip("sklearn")
    done = sjpc("demo", "--time-steps", "2", "8", "--epochs", "2", "--output", "digits.sjpc")
    assert done.code == 0, done.err
    header, *rows, last = done.out.splitlines()
    assert header.split()[0] == "network" and [row.split()[:2] for row in rows[1:]] == [["SNN", "2"], ["SNN", "8"]]
    accuracies = [float(row.split("%")[0].split()[-1]) for row in rows]
    assert min(accuracies) > 80 and abs(accuracies[2] - accuracies[0]) < 2
    assert last == "saved: digits.sjpc" and package.load("digits.sjpc").time_steps == 8


def test_demo_names_its_extra(sjpc: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    assert failed(sjpc("demo"), 1, "needs the library sklearn: pip install 'sj-parallel-conversion[demo]'")


def test_the_device(sjpc: Commands, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert failed(sjpc("evaluate", "tiny.sjpc", "train.npz", "--device", "abacus"), 2, "device='abacus'")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert commands._device(None) == "cuda" and commands._device("cpu") == "cpu"


WRONG = {
    "evaluate gone.sjpc train.npz": (1, "gone.sjpc: there is no such file"),
    "evaluate tiny.pt train.npz": (1, "tiny.pt"),
    "evaluate tiny.sjpc gone": (2, "data: there is no gone"),
    "evaluate tiny.sjpc grey.npz --no-show-progress": (1, "input.shape[1] is 1, and has to be 3"),
    "evaluate tiny.sjpc train.npz --execution fast": (2, "execution='fast' is unknown"),
    "evaluate tiny.sjpc train.npz --weights tiny.pt": (2, "--weights and --model-args are those of --ann"),
    "evaluate tiny.sjpc train.npz --ann gone.py:net": (2, "model: there is no file gone.py"),
    "inspect gone.sjpc": (1, "there is no such file"),
    "convert nets_here.py:tiny train.npz --weights gone.pt": (1, "gone.pt: there is no such file"),
    "convert nets_here.py:tiny train.npz --output gone/tiny.sjpc": (1, "gone/tiny.sjpc: there is no folder gone"),
    "convert nets_here.py:tiny train.npz --keep nothing.*": (2, "nothing.*"),
    "convert nets_here.py:tiny grey.npz": (1, "to have 3 channels, but got 1"),
    "convert nets_here.py:tiny train.npz --model-args.classes 4 --weights tiny.pt": (1, "shapes: 4.weight [3, 4]"),
    "convert nets_here.py:tiny train.npz --test gone": (2, "data: there is no gone"),
    "convert nets_here.py:tiny train.npz --output .": (1, ". is a folder, and a file is to be written"),
    "export tiny.sjpc --output gone/tiny.onnx": (1, "there is no folder gone"),
}


@pytest.mark.parametrize("line", WRONG)
def test_what_users_get_wrong(saved: Path, sjpc: Commands, line: str) -> None:
    assert failed(sjpc(*line.split()), *WRONG[line])


def test_a_warning_is_one_line(sjpc: Commands, folder: Path) -> None:
    (folder / "half.py").write_text(
        "import warnings\nfrom nets_here import tiny\n"
        "def net():\n    warnings.warn('mind\\n the step')\n    return tiny()\n"
    )
    done = sjpc("convert", "half.py:net", "train.npz", *FLAGS)
    assert done.code == 0 and "sjpc: warning: mind the step\n" in done.err
