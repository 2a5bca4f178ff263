"""From the words of a command line to an exit code: what goes wrong is one line, warnings are one line each."""

from __future__ import annotations

import os
import sys
import warnings
from typing import Any

from ..errors import ConfigError, SJPCError, StateDictError
from .commands import COMMANDS
from .parser import UsageError, make_parser, read_call

_FAILED, _WRONG_USE, _INTERRUPTED = 1, 2, 130


def run(words: list[str]) -> int:
    """
    :param words: what follows ``sjpc``
    :return: the exit code
    """
    words = words or ["--help"]
    traceback = "--traceback" in words
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            call = read_call(make_parser(COMMANDS), COMMANDS, words)
            traceback = call.traceback
            call.function(**call.arguments)
    except SystemExit as stop:  # --help, --version and --print_config
        return stop.code if isinstance(stop.code, int) else _WRONG_USE if stop.code else 0
    except KeyboardInterrupt:
        return _complain("interrupted", _INTERRUPTED)
    except BrokenPipeError:  # a reader such as `head` has enough
        _print_nowhere()
    except Exception as error:
        if traceback:
            raise
        return _complain(_in_words(error, words[0]), _code(error))
    return 0


def _complain(message: str, code: int) -> int:
    print(f"sjpc: {_one_line(message)}", file=sys.stderr)
    return code


def _print_nowhere() -> None:
    """What is left to print would raise the error again at the end of the process."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _in_words(error: Exception, command: str) -> str:
    if isinstance(error, UsageError):
        return f"{error} (sjpc {command} --help)" if command in COMMANDS else f"{error} (sjpc --help)"
    if isinstance(error, SJPCError):
        return str(error)
    return f"{type(error).__name__}: {error} (--traceback shows where)"


def _code(error: Exception) -> int:
    wrong_use = isinstance(error, (UsageError, ConfigError)) and not isinstance(error, StateDictError)
    return _WRONG_USE if wrong_use else _FAILED


def _one_line(text: object) -> str:
    return " ".join(str(text).split())


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    print(f"sjpc: warning: {_one_line(message)}", file=sys.stderr)
