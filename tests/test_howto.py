"""The code of the how-to pages, and of others that go on from First conversion, runs as it stands."""

from __future__ import annotations

import copy
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import pytest
import torch
from howto_names import names_for

import sj_parallel_conversion as sjpc

DOCS = Path(__file__).parents[1] / "docs"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.S | re.M)
RELEASE = re.compile(r"# SpikingJelly ([\d.]+)\n")  # the first line of code that one release alone runs
NEEDS = {"transformers": ["transformers"], "report": ["matplotlib", "jinja2"], "export": ["onnxruntime", "onnxscript"]}
OF_TEST_DOCS = {"start", "tutorials", "reference", "cn"}  # folders that it runs, or that are copies of what it runs
STARTED_BY_TORCHRUN = "several-processes"
ON_GPUS = "gpu"


def blocks(page: Path) -> list[str]:
    """The Python code of a page that the installed SpikingJelly runs, at the line numbers of the page."""
    text = page.read_text(encoding="utf-8")
    found = ["\n" * (text[: m.start()].count("\n") + 1) + m[1] for m in BLOCK.finditer(text)]
    releases = [RELEASE.match(code.lstrip("\n")) for code in found]
    return [code for code, r in zip(found, releases, strict=True) if r is None or r[1] == version("spikingjelly")]


def run(page: Path, names: dict[str, object]) -> dict[str, object]:
    """
    :param page: its code is run; an error has its name and line
    :param names: what the code goes on from
    :return: the same, with what the code has made
    """
    for code in blocks(page):
        exec(compile(code, str(page), "exec"), names)
    return names


PAGES = {
    page.stem: page
    for page in sorted(DOCS.rglob("*.md"))
    if page.relative_to(DOCS).parts[0] not in OF_TEST_DOCS and BLOCK.search(page.read_text(encoding="utf-8"))
}


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """The names of the page First conversion."""
    pytest.importorskip("sklearn")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("first"))
        return run(DOCS / "start" / "first-conversion.md", {"__name__": "first_conversion"})


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", sorted(PAGES.keys() - {STARTED_BY_TORCHRUN}))
def test_the_code_of_a_page_runs(
    name: str, first: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for library in NEEDS.get(name, []):
        pytest.importorskip(library)
    if name == ON_GPUS:
        pytest.importorskip("cupy")
        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")
    monkeypatch.chdir(tmp_path)
    reader = ModuleType("reader")  # what is registered is found by the name of its file
    monkeypatch.setitem(sys.modules, "reader", reader)
    own = {key: copy.deepcopy(first[key]) for key in ("ann", "snn")}  # pages change them
    names = vars(reader)
    names |= first | own | names_for(name) | {"__name__": "reader"}
    run(PAGES[name], names)
    if name == "activations":
        sjpc.unregister_leaf(names["MyAttention"])
        for activation in (names["Squareplus"], torch.erf):
            sjpc.unregister_activation(activation)


@pytest.mark.slow
def test_the_page_on_several_processes_runs(tmp_path: Path) -> None:
    (code,) = blocks(PAGES[STARTED_BY_TORCHRUN])
    (tmp_path / "convert.py").write_text(code)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "convert.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "256 samples" in done.stdout and (tmp_path / "snn.sjpc").exists()


def test_no_page_is_forgotten() -> None:
    assert len(PAGES) >= 19 and {STARTED_BY_TORCHRUN, ON_GPUS, *NEEDS} <= PAGES.keys()


def test_code_for_one_release_runs_on_it_alone(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    installed = version("spikingjelly")
    page.write_text(
        f"```python\na = 1\n```\n```python\n# SpikingJelly {installed}\nb = 2\n```\n"
        "```python\n# SpikingJelly 0.1\nc = 3\n```\n```python\n\n# as SpikingJelly 0.1 has it\nd = 4\n```\n"
    )
    assert {"a", "b", "d"} == set(run(page, {"__builtins__": {}})) - {"__builtins__"}
    page.write_text("text\n\n```python\nraise KeyError\n```\n")
    with pytest.raises(KeyError) as error:
        run(page, {})
    assert (error.traceback[-1].path, error.traceback[-1].lineno + 1) == (page, 4)
