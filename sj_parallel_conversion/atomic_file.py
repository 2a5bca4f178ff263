"""Files that are whole or not there: a new one takes the place of the old one when all of it is on the disk."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import ConfigError


def as_path(argument: str, path: object) -> Path:
    """
    :param argument: what it is called
    :param path: what a user gave
    :return: the same as a path
    :raises ConfigError: if it is none
    """
    if not isinstance(path, (str, os.PathLike)) or not isinstance(os.fspath(path), str) or not os.fspath(path):
        raise ConfigError(f"{argument} must be a path, got {path!r}")
    return Path(path)


def check_place(path: Path) -> None:
    """
    :param path: of a file that is to be written
    :raises OSError: if none can be written there, in words that name no file of which the user knows nothing
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {path.parent}")
    if path.is_dir():
        raise IsADirectoryError("it is a folder")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """
    Within it, a new file is written beside the old one. At its end the new file takes the old one's place and mode. If
    an error is raised, the old file stays as it was, and the new one is gone.

    :param path: the file; a link stays a link
    :return: the new file, which is empty
    :raises OSError: if it cannot be written
    """
    check_place(path)
    path = Path(os.path.realpath(path))
    new = path.with_name(f".{path.name[:100]}.{uuid.uuid4().hex}.tmp")
    try:
        new.touch(exist_ok=False)
        mode = (path if path.exists() else new).stat().st_mode & 0o777
        yield new
        with open(new, "r+b") as file:
            os.fsync(file.fileno())
        os.chmod(new, mode)
        os.replace(new, path)
    finally:
        new.unlink(missing_ok=True)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
