"""The file from which an interrupted fine-tuning goes on."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import torch

from .. import ranks
from ..atomic_file import replacing
from ..errors import FileError

_FORMAT = 1


class TuningCheckpoint:
    """
    :param path: the file; ``None``: nothing is kept
    :param settings: of the run. A file of other settings is refused
    :raises FileError: if its folder does not exist
    """

    def __init__(self, path: str | os.PathLike[str] | None, settings: dict[str, object]) -> None:
        self._path = None if path is None else Path(path)
        self._settings = {"format": _FORMAT, **settings}
        if ranks.count() > 1:
            self._settings["processes"] = ranks.count()
        if self._path is not None and ranks.leads() and not self._path.parent.is_dir():
            raise FileError(f"{self._path}: the checkpoint cannot be written, there is no such folder")

    def read(self) -> dict[str, Any] | None:
        """
        torch's global generator, which shuffles loaders, goes on as well.

        :return: what was written, or ``None`` where nothing was
        :raises FileError: if the file is no checkpoint, or one of another run
        """
        if self._path is None:
            return None
        found = ranks.object_of(_read(self._path, self._settings) if ranks.leads() else None, 0)
        if found is None:
            return None
        state, generators = found
        torch.set_rng_state(generators[ranks.number()] if ranks.count() > 1 else generators)
        return state

    def write(self, state: dict[str, object]) -> None:
        """:param state: tensors and numbers. An old file stays until the new one is whole. Rank 0 writes it"""
        if self._path is None:
            return
        generators = ranks.objects(torch.get_rng_state())
        if not ranks.leads():
            return
        generator = generators if len(generators) > 1 else generators[0]
        content = {"settings": self._settings, "state": state, "generator": generator}
        try:
            with replacing(self._path) as new:
                torch.save(content, new)
        except (OSError, RuntimeError) as error:
            raise FileError(f"{self._path}: the checkpoint cannot be written: {error}") from error


def _read(path: Path, settings: dict[str, object]) -> tuple[dict[str, Any], Any] | None:
    """The state, and that of torch's generator; a list of them if there are several ranks."""
    if not path.exists():
        return None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        theirs, found = content["settings"], (content["state"], content["generator"])
    except (OSError, EOFError, RuntimeError, ValueError, LookupError, TypeError, pickle.UnpicklingError) as error:
        raise FileError(f"{path}: it is no checkpoint of fine_tune, or a damaged one: {error}") from error
    for name, value in (dict.fromkeys(theirs) | settings).items():
        if theirs.get(name) != value:
            raise FileError(
                f"{path}: it is the checkpoint of another run, with {name}={theirs.get(name)!r} instead of "
                f"{value!r}. Give the same, or another path"
            )
    return found
