"""The scripts in ``examples/`` and ``benchmarks/``: each starts, and command lines that the docs quote are right."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

pytest.importorskip("torchvision")
pytest.importorskip("matplotlib")

ROOT = Path(__file__).parents[1]
FOLDERS = ("examples", "benchmarks")
QUOTED = re.compile(r"\b((?:examples|benchmarks)/\w+\.py)([^`\n#]*)")  # a script, and what follows on its line
LISTED = re.compile(r"^\| `([\w/]+\.py)` \|", re.MULTILINE)  # a file's row in a README
OPTION = re.compile(r"--\w[\w-]*")
# One process for all scripts of a folder. Like `python folder/script.py`, it looks for modules in that folder first.
PRINT_HELP = """
import contextlib, io, json, runpy, sys
folder, *scripts = sys.argv[1:]
sys.path.insert(0, folder)
texts = {}
for script in scripts:
    sys.argv = [script, "--help"]
    with contextlib.redirect_stdout(io.StringIO()) as text, contextlib.suppress(SystemExit):
        runpy.run_path(script, run_name="__main__")
    texts[script] = text.getvalue()
print(json.dumps(texts))
"""


def scripts(folder: str) -> list[str]:
    """The files of a folder that have a ``main``."""
    found = sorted(path for path in (ROOT / folder).glob("*.py") if "\ndef main(" in path.read_text())
    return [path.relative_to(ROOT).as_posix() for path in found]


@pytest.fixture(scope="module")
def helps() -> dict[str, str]:
    """What each script prints for ``--help``."""
    texts = {}
    for folder in FOLDERS:
        command = [sys.executable, "-P", "-c", PRINT_HELP, folder, *scripts(folder)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
        assert done.returncode == 0, done.stderr
        texts |= json.loads(done.stdout)
    return texts


def quotes() -> list[tuple[str, str, str]]:
    """The command lines that docs and docstrings quote: where, the script, and what follows it."""
    texts = {path: path.read_text() for path in [ROOT / "README.md", ROOT / "Makefile", *ROOT.glob("docs/**/*.md")]}
    for folder in FOLDERS:
        texts[ROOT / folder / "README.md"] = (ROOT / folder / "README.md").read_text()
        texts |= {path: ast.get_docstring(ast.parse(path.read_text())) for path in (ROOT / folder).rglob("*.py")}
    where = {path.relative_to(ROOT).as_posix(): text or "" for path, text in texts.items()}
    return [(path, *quoted) for path, text in where.items() for quoted in QUOTED.findall(text)]


def test_every_script_starts(helps: dict[str, str]) -> None:
    assert len(helps) >= 12 and all(text.startswith("usage: ") for text in helps.values())


def test_quoted_command_lines_are_right(helps: dict[str, str]) -> None:
    found = quotes()
    assert len(found) >= 30
    for where, script, rest in found:
        assert (ROOT / script).is_file(), f"{where} quotes {script}, which does not exist"
        unknown = set(OPTION.findall(rest)) - set(OPTION.findall(helps.get(script, "")))
        assert not unknown, f"{where}: {script} does not have {unknown}"


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_file_stands_in_the_readme_once(folder: str) -> None:
    listed = Counter(LISTED.findall((ROOT / folder / "README.md").read_text()))
    paths = {path.relative_to(ROOT / folder).as_posix() for path in (ROOT / folder).rglob("*.py")}
    assert {name for name in paths if "__init__" not in name} == set(listed)
    assert [name for name, times in listed.items() if times > 1] == []


def test_examples_are_few() -> None:
    files = [path.name for path in (ROOT / "examples").iterdir() if path.is_file()]
    assert len(files) <= 12
