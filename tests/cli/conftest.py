"""A folder with small files, and the command that runs in it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("jsonargparse")
pytest.importorskip("torchvision")

from cli_files import Commands, write_files


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working folder, with the files of :func:`cli_files.write_files`."""
    write_files(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    known = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - known:  # modules of this folder
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture
def sjpc(folder: Path, capsys: pytest.CaptureFixture) -> Commands:
    """Runs ``sjpc`` in :func:`folder`."""
    return Commands(capsys)
