"""The arguments of a report, checked before anything is measured."""

from __future__ import annotations

import importlib
import os
from pathlib import Path

from ...errors import ConfigError, FileError, MissingExtraError
from ...parameters import as_integer

_LIBRARIES = ("jinja2", "matplotlib")


def check_libraries() -> None:
    """:raises MissingExtraError: if a library that draws or writes reports cannot be imported"""
    for name in _LIBRARIES:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise MissingExtraError(
                f"report needs {' and '.join(_LIBRARIES)}, and {name} cannot be imported ({error}): "
                "pip install 'sj-parallel-conversion[report]'"
            ) from error


def checked_folder(folder: str | os.PathLike[str]) -> Path:
    """
    :param folder: where a report goes
    :return: the same as a path
    :raises ConfigError: if it is no path
    :raises FileError: if no folder can be there, or nothing can be written to it
    """
    if not isinstance(folder, (str, os.PathLike)) or not isinstance(os.fspath(folder), str) or not os.fspath(folder):
        raise ConfigError(f"folder must be a path, got {folder!r}")
    path = Path(folder)
    existing = next(place for place in (path, *path.absolute().parents) if os.path.lexists(place))
    if not existing.is_dir():
        raise FileError(f"folder={str(folder)!r}: {existing} is there already, and is no folder")
    if not os.access(existing, os.W_OK):
        raise FileError(f"folder={str(folder)!r}: nothing can be written to {existing}")
    return path


def checked_limit(argument: str, value: object) -> int | None:
    """:raises ConfigError: if ``value`` is neither ``None`` nor an integer >= 1"""
    limit = as_integer(value)
    if value is not None and (limit is None or limit < 1):
        raise ConfigError(f"{argument} must be None or an integer >= 1, got {value!r}")
    return limit


def checked_title(title: object) -> str | None:
    """:raises ConfigError: if ``title`` is neither ``None`` nor a string"""
    if title is not None and not isinstance(title, str):
        raise ConfigError(f"title must be None or a string, got {title!r}")
    return title
