"""The file from which an interrupted fine-tuning goes on."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import torch

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
        if self._path is not None and not self._path.parent.is_dir():
            raise FileError(f"{self._path}: the checkpoint cannot be written, there is no such folder")

    def read(self) -> dict[str, object] | None:
        """
        torch's global generator, which shuffles loaders, goes on as well.

        :return: what was written, or ``None`` where nothing was
        :raises FileError: if the file is no checkpoint, or one of another run
        """
        if self._path is None or not self._path.exists():
            return None
        try:
            content = torch.load(self._path, map_location="cpu", weights_only=True)
            settings, state, generator = content["settings"], content["state"], content["generator"]
        except (OSError, EOFError, RuntimeError, ValueError, LookupError, TypeError, pickle.UnpicklingError) as error:
            raise FileError(f"{self._path}: it is no checkpoint of fine_tune, or a damaged one: {error}") from error
        for name, value in self._settings.items():
            if settings.get(name) != value:
                raise FileError(
                    f"{self._path}: it is the checkpoint of another run, with {name}={settings.get(name)!r} instead of "
                    f"{value!r}. Give the same, or another path"
                )
        torch.set_rng_state(generator)
        return state

    def write(self, state: dict[str, object]) -> None:
        """:param state: tensors and numbers. An old file stays until the new one is whole"""
        if self._path is None:
            return
        content = {"settings": self._settings, "state": state, "generator": torch.get_rng_state()}
        try:
            with replacing(self._path) as new:
                torch.save(content, new)
        except (OSError, RuntimeError) as error:
            raise FileError(f"{self._path}: the checkpoint cannot be written: {error}") from error
