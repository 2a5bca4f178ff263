"""The command ``sjpc``. The library that reads command lines is imported when it runs, not with the package."""

from __future__ import annotations

import sys
from collections.abc import Sequence

_LIBRARIES = ("jsonargparse", "yaml", "docstring_parser")


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Run a command.

    :param arguments: the words after ``sjpc``; ``None``: those of this process
    :return: the exit code: 0, 1 if the command failed, 2 if the command line was wrong
    """
    try:
        from .run import run
    except ModuleNotFoundError as error:
        if error.name not in _LIBRARIES:
            raise
        print("sjpc: the command line needs an extra: pip install 'sj-parallel-conversion[cli]'", file=sys.stderr)
        return 1
    return run(sys.argv[1:] if arguments is None else list(arguments))
