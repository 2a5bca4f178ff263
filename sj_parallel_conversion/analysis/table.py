"""Rows of text as the lines of a table."""

from __future__ import annotations

from collections.abc import Sequence


def aligned(rows: Sequence[Sequence[str]], left: int) -> list[str]:
    """
    :param rows: of as many cells each
    :param left: so many columns are flush left; the others are flush right
    :return: a line for each row
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = zip(row, widths, strict=True)
        padded = (cell.ljust(width) if i < left else cell.rjust(width) for i, (cell, width) in enumerate(cells))
        lines.append("  ".join(padded).rstrip())
    return lines
