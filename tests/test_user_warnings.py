"""Where warnings point."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

import sj_parallel_conversion as sjpc
from sj_parallel_conversion.ann2snn.data import source
from sj_parallel_conversion.user_warnings import warn


def module(name: str, code: str) -> ModuleType:
    """A module of a library."""
    made = ModuleType(name)
    exec(compile(code, f"{name}.py", "exec"), vars(made))
    return made


def test_it_points_at_the_line_outside_of_libraries() -> None:
    inner = module("sj_parallel_conversion.ann2snn.x", "def f(warn): return warn('look', DeprecationWarning)")
    outer = module("torch.utils.y", "def g(f, warn): return f(warn)")
    other = module("torchvision.z", "def h(g, f, warn): return g(f, warn)")  # no part of torch
    with pytest.warns(DeprecationWarning, match="look") as found:
        outer.g(inner.f, warn)
    assert found[0].filename == __file__
    with pytest.warns(DeprecationWarning, match="look") as found:
        other.h(outer.g, inner.f, warn)
    assert found[0].filename == "torchvision.z.py"


def test_a_conversion_points_at_its_call() -> None:
    ann = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.LayerNorm(4), nn.Linear(4, 4))
    with pytest.warns(UserWarning, match="became accumulates") as found:
        sjpc.ParallelConverter([torch.randn(8, 4)], show_progress=False).convert(ann.eval())
    assert found[0].filename == __file__


def test_a_progress_bar_does_not_take_the_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stream:
        def __iter__(self) -> Iterator[Tensor]:
            return (torch.randn(8, 4) for _ in range(3))

    monkeypatch.setattr(source, "_MANY", 2)
    ann = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)).eval()
    with pytest.warns(UserWarning, match="without coming to its end") as found:
        sjpc.ParallelConverter(Stream(), show_progress=True).convert(ann)
    assert {warning.filename for warning in found} == {__file__}


def test_an_import_points_at_its_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "spikingjelly_user.py"
    package.write_text("from sj_parallel_conversion.user_warnings import warn\nwarn('imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.warns(UserWarning, match="imported") as found:
        __import__("spikingjelly_user")
    assert found[0].filename == str(package)
    monkeypatch.delitem(sys.modules, "spikingjelly_user")
    package.write_text("__name__ = 'torch.x'\n" + package.read_text())
    with pytest.warns(UserWarning, match="imported") as found:
        __import__("spikingjelly_user")
    assert found[0].filename == __file__


def test_it_is_an_error_where_warnings_are() -> None:
    with warnings.catch_warnings(), pytest.raises(UserWarning, match="look"):
        warnings.simplefilter("error")
        warn("look")
