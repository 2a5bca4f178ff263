"""The pages for users: links lead somewhere, code runs, and none has fallen behind another or the package."""

from __future__ import annotations

import ast
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

import sj_parallel_conversion as sjpc

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *(ROOT / f / "README.md" for f in ("examples", "benchmarks"))])
LINK = re.compile(r"\]\(([^)\s]+)\)")
CODE = re.compile(r"^```([\w{}-]*)\n(.*?)^```$", re.S | re.M)  # a language, or a directive of Sphinx
START = ("install", "first-conversion", "save-and-load")
TRANSLATED = [("README.md", "README_cn.md"), *((f"docs/start/{page}.md", f"docs/cn/{page}.md") for page in START)]


def dead_links(page: Path) -> list[str]:
    """The relative links of a page that lead nowhere."""
    text = CODE.sub("", page.read_text())
    links = [link.partition("#")[0] for link in LINK.findall(text) if not re.match(r"https?:|mailto:|#", link)]
    return [link for link in links if not (page.parent / link).exists()]


def python_blocks(page: Path) -> list[str]:
    """The Python code of a page."""
    return [code for language, code in CODE.findall(page.read_text()) if language == "python"]


def headings(page: Path) -> list[int]:
    """How deep each heading of a page is."""
    return [len(marks) for marks in re.findall(r"^(#+) ", CODE.sub("", page.read_text()), re.M)]


def outside_of_the_index() -> set[str]:
    """The pages that no table of contents has."""
    listed = set()
    for page in DOCS.rglob("*.md"):
        for tree in re.findall(r"^```\{toctree\}\n(.*?)^```$", page.read_text(), re.S | re.M):
            names = [line for line in tree.splitlines() if line and not line.startswith(":")]
            listed |= {(page.parent / f"{name}.md").relative_to(DOCS).as_posix() for name in names}
    return {page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")} - listed - {"index.md"}


def test_links_lead_somewhere(tmp_path: Path) -> None:
    assert len(PAGES) > 40
    dead = {page.relative_to(ROOT).as_posix(): dead_links(page) for page in PAGES}
    assert {page: links for page, links in dead.items() if links} == {}
    (tmp_path / "page.md").write_text("[a](page.md#part) [b](https://x.org) [c](gone.md) ![d](gone.png)")
    assert dead_links(tmp_path / "page.md") == ["gone.md", "gone.png"]


def test_every_page_is_in_the_index() -> None:
    assert outside_of_the_index() == set()


def run_pages(folder: Path, *pages: Path) -> str:
    """
    :param folder: where the code of the pages runs
    :param pages: the first, and those that go on from it
    :return: what they print
    """
    path = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(path), "MPLBACKEND": "Agg"}
    command = [sys.executable, DOCS / "run_pages.py", *pages, "--folder", folder]
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_readme_runs_in_an_empty_folder(tmp_path: Path) -> None:
    assert "agreement with the ANN" in run_pages(tmp_path, ROOT / "README.md")


@pytest.mark.slow
def test_start_tutorials_and_reference_run_in_an_empty_folder(tmp_path: Path) -> None:
    for library in ("matplotlib", "sklearn", "jinja2"):
        pytest.importorskip(library)
    first, tutorials = DOCS / "start" / "first-conversion.md", set((DOCS / "tutorials").glob("*.md"))
    pages = sorted(tutorials - {DOCS / "tutorials" / "index.md"})
    others = [DOCS / "start" / "install.md", DOCS / "start" / "save-and-load.md", DOCS / "reference" / "index.md"]
    assert "agreement with the ANN" in run_pages(tmp_path, first, *others, *pages)
    assert len(pages) >= 6
    for page in pages:
        picture = f"{page.stem}.png"
        assert (tmp_path / picture).stat().st_size > 5000 and f"images/tutorials/{picture})" in page.read_text()




def test_all_code_can_be_parsed() -> None:
    blocks = [block for page in PAGES for block in python_blocks(page)]
    assert len(blocks) > 30
    for block in blocks:
        ast.parse(block)


def test_the_reference_has_every_public_name() -> None:
    text = (DOCS / "reference" / "index.md").read_text()
    found = re.findall(r"^\.\. auto(?:class|function):: sj_parallel_conversion\.(\w+)$", text, re.M)
    assert sorted(found) == sorted(sjpc.__all__)
    code = "\n".join(python_blocks(DOCS / "reference" / "index.md"))
    without = {name for name in found if not re.search(rf"sjpc\.{name}\b", code)}
    assert all(name.endswith("Error") for name in without)  # an error's example would be a mistake


@pytest.mark.parametrize(("english", "chinese"), TRANSLATED)
def test_translations_have_kept_up(english: str, chinese: str) -> None:
    pages = ROOT / english, ROOT / chinese
    assert headings(pages[0]) == headings(pages[1])
    assert CODE.findall(pages[0].read_text()) == CODE.findall(pages[1].read_text())


def test_the_options_page_has_every_option() -> None:
    rows = re.findall(r"^\| `(\w+)` \|", (DOCS / "howto" / "options.md").read_text(), re.M)
    assert set(rows) == {*sjpc.ConversionConfig.__dataclass_fields__, "device"}


def test_the_architecture_page_has_the_right_lengths() -> None:
    rows = re.findall(r"`([\w/]+\.py)`: (\d+) lines", (DOCS / "architecture.md").read_text())
    assert len(rows) >= 2
    for name, lines in rows:
        assert len((ROOT / "sj_parallel_conversion" / name).read_text().splitlines()) == int(lines), name


def test_the_drawn_trains_are_those_of_the_codes() -> None:
    drawn = runpy.run_path(str(DOCS / "draw_trains.py"))
    assert drawn["FILE"].read_text() == drawn["svg"]()
