"""Flags, YAML files, help and messages of the command line."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from cli_files import Commands
from jsonargparse import ArgumentParser

from sj_parallel_conversion import ConversionConfig, __version__
from sj_parallel_conversion.cli import main, run
from sj_parallel_conversion.cli.commands import COMMANDS
from sj_parallel_conversion.cli.parser import make_parser, read_call

ROOT = Path(__file__).parents[2]
FIELDS = {field.name: field for field in dataclasses.fields(ConversionConfig)}
# A value for each option other than its default: in YAML, and as words of a command line.
VALUES = {
    "mode": ("css", "css"), "time_steps": (3, "3"), "threshold": ("99.9%", "99.9%"), "calibration": ("none", "none"),
    "per_channel": (False, None), "fold": (False, None), "show_progress": (False, None), "backend": ("torch", "torch"),
    "input_encoding": ("spikes", "spikes"), "spiking_inputs": (True, None), "strict": (True, None),
    "max_batches": (2, "2"), "max_memory": (0.5, "0.5"), "distillation_epochs": (1, "1"), "shortcut": ("spikes",) * 2,
    "free_sizes": (False, "false"), "distributed": (False, "false"),
    "seed": (5, "5"), "keep": (["a.*", "b"], "a.* b"), "output_neurons": (False, None),
    "filled_levels": (0.5, "0.5"), "frame_tau": (2.0, "2"),
}  # fmt: skip


@pytest.fixture(scope="module")
def parser() -> ArgumentParser:
    """Of all commands."""
    return make_parser(COMMANDS)


def config_of(parser: ArgumentParser, *words: str) -> ConversionConfig:
    """The options that a command line gives to a conversion."""
    return read_call(parser, COMMANDS, ["convert", *words]).arguments["config"]


def words_of(name: str) -> list[str]:
    """A command line's words for the value of :data:`VALUES`."""
    value, words = VALUES[name]
    flag = name.replace("_", "-")
    return [f"--{flag}", *words.split()] if words is not None else [f"--{'' if value else 'no-'}{flag}"]


def set_in(config: ConversionConfig, name: str) -> ConversionConfig:
    """``config`` with the value of :data:`VALUES`; options that exclude each other are made to agree."""
    return dataclasses.replace(config, **{name: VALUES[name][0]})


def test_defaults_are_those_of_the_dataclass(parser: ArgumentParser) -> None:
    assert config_of(parser, "a", "b") == ConversionConfig()


@pytest.mark.parametrize("name", FIELDS)
def test_every_option_is_a_flag_and_a_key(parser: ArgumentParser, name: str, tmp_path: Path) -> None:
    expected = set_in(ConversionConfig(), name)
    assert expected != ConversionConfig() or name == "backend"  # the other backend needs a GPU
    assert config_of(parser, "a", "b", *words_of(name)) == expected
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({"ann": "a", "data": "b", name: VALUES[name][0]}))
    assert config_of(parser, "--config", str(tmp_path / "c.yaml")) == expected


@pytest.mark.parametrize("name", FIELDS)
def test_the_help_explains_every_option(parser: ArgumentParser, name: str, sjpc: Commands) -> None:
    text = " ".join(sjpc("convert", "--help").out.split())
    flag = f"--{name.replace('_', '-')}"
    assert f" {flag}" in text and ":data:" not in text and "``" not in text and "%%" not in text
    assert str(FIELDS[name].default) in text or FIELDS[name].default in (None, ())


def test_flags_win_over_the_file_and_underscores_are_dashes(parser: ArgumentParser, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("time_steps: 16\nmode: css\nkeep: [x]\nmax_memory: .inf\n")
    config = config_of(parser, "a", "b", "--config", str(tmp_path / "c.yaml"), "--time_steps=2", "--no_fold")
    assert (config.time_steps, config.mode, config.keep, config.fold) == (2, "css", ("x",), False)
    assert config.max_memory == float("inf")


def test_a_printed_configuration_is_one_to_read(sjpc: Commands, folder: Path, parser: ArgumentParser) -> None:
    words = ["nets:f", "data", "--model-args.classes", "3", "--mean", "0.5", "--images", "9", *words_of("keep")]
    words += [*words_of("max_memory"), *words_of("free_sizes"), *words_of("strict")]
    done = sjpc("convert", *words, "--print_config")
    assert done.code == 0 and done.err == ""
    (folder / "c.yaml").write_text(done.out)
    again = read_call(parser, COMMANDS, ["convert", "--config", "c.yaml"])
    assert again == read_call(parser, COMMANDS, ["convert", *words])
    assert again.arguments["model"].model_args == {"classes": 3} and again.arguments["images"].mean == [0.5]


@pytest.mark.parametrize("name", COMMANDS)
def test_examples_can_be_understood(parser: ArgumentParser, name: str, sjpc: Commands, folder: Path) -> None:
    (folder / "resnet20.yaml").write_text("ann: models.py:resnet20\ndata: train.npz\n")
    done = sjpc(name, "--help")
    examples = [line.split()[1:] for line in done.out.partition("examples:")[2].strip().splitlines()]
    assert done.code == 0 and len(examples) == len(COMMANDS[name].examples) >= 1
    for words in examples:
        assert read_call(parser, COMMANDS, words).function is COMMANDS[name].function


def test_command_lines_of_the_docs_can_be_understood(parser: ArgumentParser, folder: Path) -> None:
    text = "".join((ROOT / name).read_text() for name in ("docs/command-line.md", "README.md"))
    (keys,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    (folder / "resnet20.yaml").write_text(keys)
    lines = re.findall(r"^sjpc (.*)$", text, re.MULTILINE)
    assert len(lines) >= 5
    for line in lines:
        assert read_call(parser, COMMANDS, line.split()).function is COMMANDS[line.split()[0]].function


def test_the_docs_have_every_command() -> None:
    text = (ROOT / "docs/command-line.md").read_text()
    assert re.findall(r"^\| `(\w+)", text.partition("## ANN")[0], re.MULTILINE) == list(COMMANDS)


WRONG = {
    "nonsense": "(sjpc --help)",
    "convert": "the following arguments are required: ann, data (sjpc convert --help)",
    "evaluate a.sjpc": "the following arguments are required: data",
    "convert a b c": "unrecognized arguments: c",
    "convert a b --tim 3": "unrecognized arguments: --tim 3",
    "convert a b --time-steps zwei": "--time-steps takes an integer, got 'zwei'",
    "convert a b --time-steps 2.5": "--time-steps takes an integer, got '2.5'",
    "convert a b --time-steps": "argument --time-steps: expected one argument",
    "convert a b --time-steps 0": "time_steps must be an integer >= 1, got 0",
    "convert a b --free-sizes maybe": "--free-sizes takes true, false or null, got 'maybe'",
    "convert a b --mean 0.5 x": "--mean takes a number, got 'x'",
    "convert a b --mode snn": "mode='snn' is unknown. Choose one of: 'parallel', 'spikepack', 'css'",
    "convert a b --threshold most": "threshold='most' is unknown. Choose one of: 'mse', 'max', or a percentile",
    "convert a b --filled-levels 2": "filled_levels must be a number above 0 and at most 1, got 2",
    "convert a b --strict --no-output-neurons": "strict=True allows no analogue operation",
    "convert a b --images 0": "images must be at least 1, got 0",
    "convert a b --std 0": "std must be above 0, got [0.0]",
    "convert a b --image-size 32 --resize-size 16": "resize_size=16 is smaller than image_size=32",
    "convert a b --resize-size 16": "resize_size=16 needs image_size, the size after cropping",
    "convert a b --interpolation cubic": "--interpolation takes one of 'nearest', 'bilinear', 'bicubic' or null, got",
    "convert a b --config none.yaml": "sjpc: --config: File does not exist",
    "convert --config wrong.yaml": "does not accept option 'tim_steps'",
    "convert --config broken.yaml": "Problems parsing config",
    "export a.sjpc --format pdf": "--format takes one of 'onnx', 'onnx-int8', 'torch', 'integers', got 'pdf'",
}


@pytest.mark.parametrize("line", WRONG)
def test_wrong_command_lines(sjpc: Commands, folder: Path, line: str) -> None:
    (folder / "wrong.yaml").write_text("ann: a\ndata: b\ntim_steps: 3\n")
    (folder / "broken.yaml").write_text("ann: [a\n")
    done = sjpc(*line.split())
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("sjpc: ") and done.err.count("\n") == 1 and WRONG[line] in done.err


def test_no_words_are_a_question(sjpc: Commands) -> None:
    done = sjpc()
    assert done.code == 0 and all(name in done.out for name in COMMANDS)
    assert sjpc("--version").out.split()[-1] == __version__


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.delitem(sys.modules, "sj_parallel_conversion.cli.run")
    monkeypatch.setitem(sys.modules, "docstring_parser", None)
    monkeypatch.delitem(sys.modules, "sj_parallel_conversion.cli.parser")
    monkeypatch.delitem(sys.modules, "sj_parallel_conversion.cli.commands")
    monkeypatch.delitem(sys.modules, "sj_parallel_conversion.cli.demo")
    assert main(["--help"]) == 1
    assert capsys.readouterr().err == (
        "sjpc: the command line needs an extra: pip install 'sj-parallel-conversion[cli]'\n"
    )


def test_interruptions(sjpc: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise error

    redirected = []
    monkeypatch.setattr(run, "read_call", fail)
    monkeypatch.setattr(run, "_print_nowhere", lambda: redirected.append(1))
    error = KeyboardInterrupt()
    assert sjpc("demo") == (130, "", "sjpc: interrupted\n") and redirected == []
    error = BrokenPipeError()  # of `sjpc inspect ... | head`
    assert sjpc("demo") == (0, "", "") and redirected == [1]


def test_the_package_does_not_need_the_command_line() -> None:
    code = (
        "import sys, runpy, sj_parallel_conversion; sys.argv = ['x', '--version']\n"
        "assert not {'jsonargparse', 'sj_parallel_conversion.cli'} & set(sys.modules)\n"
        "runpy.run_module('sj_parallel_conversion', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout.split()[-1:]) == (0, [__version__]), done.stderr


