"""What those get who install the package: what an import costs, extras, the version, the page on a package index."""

from __future__ import annotations

import ast
import re
import runpy
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import sj_parallel_conversion as sjpc

ROOT = Path(__file__).parents[1]
# Each takes longer to import than this package, which needs none of them before it converts or draws.
HEAVY = {"sympy", "matplotlib", "jinja2", "onnx", "onnxscript", "onnxruntime", "torchvision", "jsonargparse", "sklearn"}
HEAVY |= {"torch._dynamo", "torch._inductor", "torch.onnx._internal.exporter"}
WITHOUT = """
import sys
import torch, spikingjelly.activation_based.ann2snn
before = set(sys.modules)
import sj_parallel_conversion
print(*(set(sys.modules) - before))
"""


def test_an_import_brings_nothing_heavy() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True)
    brought = set(done.stdout.split())
    assert "sj_parallel_conversion.converter_modes" in brought, done.stderr
    assert brought & HEAVY == set()


def test_the_version_has_one_place() -> None:
    numbers = re.compile(rf"\b{re.escape(sjpc.__version__)}\b")
    files = [
        *(ROOT / "sj_parallel_conversion").rglob("*.py"),
        *ROOT.glob("*.cfg"),
        *ROOT.glob("*.toml"),
        ROOT / "setup.py",
    ]
    assert [path.name for path in files if numbers.search(path.read_text())] == ["version.py"]


def test_an_index_shows_a_page_without_dead_links() -> None:
    shown = runpy.run_path(str(ROOT / "setup.py"))["for_an_index"]
    page = shown((ROOT / "README.md").read_text())
    assert re.findall(r"\]\((?!https?:)", page) == [] and "![" not in page
    assert "[SpikingJelly](https://github.com" in page and "First conversion: train" in page
    assert shown("a [b](c.md) ![d](e.png)") == "a b !d"


def declared() -> set[str]:
    """The libraries that setup.cfg names, with or without an extra."""
    config = ConfigParser()
    config.read(ROOT / "setup.cfg")
    texts = [config["options"]["install_requires"], *config["options.extras_require"].values()]
    return {re.split(r"[<>=\[]", line)[0] for text in texts for line in text.split("\n") if line}


def test_what_the_package_imports_is_declared() -> None:
    imported = set()
    for path in (ROOT / "sj_parallel_conversion").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                imported.add(node.module.partition(".")[0])
    foreign = imported - set(sys.stdlib_module_names) - {"sj_parallel_conversion"}
    assert {"numpy", "torch", "tqdm", "safetensors"} <= foreign
    known = {"cupy": "cupy-cuda12x", "sklearn": "scikit-learn", "cuda": "torch"}
    known |= {"markupsafe": "jinja2", "docstring_parser": "jsonargparse"}  # which need them
    assert {known.get(name, name) for name in foreign} <= declared()
