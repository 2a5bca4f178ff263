"""Warnings that point at the line of the user's code that led to them."""

from __future__ import annotations

import sys
import warnings
from types import FrameType

# What stands between this package and its caller: a progress bar, for one, calls what reads the data.
_LIBRARIES = ("sj_parallel_conversion", "spikingjelly", "torch", "tqdm", "contextlib")


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """
    ``warnings.warn``, at the innermost line that is in no library of ``_LIBRARIES``.

    :param message: what there is to know, and what can be done about it
    :param category: its class
    """
    frames = [frame for frame in _callers() if not _is_of_an_import(frame)]  # which warnings.warn does not count either
    others = (level for level, frame in enumerate(frames, 1) if not _is_of_a_library(frame))
    warnings.warn(message, category, stacklevel=next(others, len(frames)))


def _callers() -> list[FrameType]:
    """The frames that wait for :func:`warn`, and its own, innermost first."""
    frames = []
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        frames.append(frame)
        frame = frame.f_back
    return frames


def _is_of_an_import(frame: FrameType) -> bool:
    return "importlib" in frame.f_code.co_filename and "_bootstrap" in frame.f_code.co_filename


def _is_of_a_library(frame: FrameType) -> bool:
    name = frame.f_globals.get("__name__")
    return isinstance(name, str) and name.partition(".")[0] in _LIBRARIES
