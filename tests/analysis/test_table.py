"""Tables have straight columns."""

from __future__ import annotations

from sj_parallel_conversion.analysis.table import aligned


def test_columns_are_flush_left_then_right() -> None:
    rows = [("name", "size"), ("a long name", "1"), ("b", "1,234,567")]
    assert aligned(rows, left=1) == ["name              size", "a long name          1", "b            1,234,567"]
    assert aligned(rows, left=2) == ["name         size", "a long name  1", "b            1,234,567"]
