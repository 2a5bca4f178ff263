"""What a command line names: libraries that may be missing, and things in modules and files of the user's."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType

from ..errors import ConfigError, MissingExtraError

_CLI, _DEMO = "'sj-parallel-conversion[cli]'", "'sj-parallel-conversion[demo]'"
_INSTALL = {"torchvision": _CLI, "PIL": _CLI, "sklearn": _DEMO}


def library(name: str, wanted_by: str) -> ModuleType:
    """
    :param name: of a library, such as ``torchvision``
    :param wanted_by: what needs it, for the message
    :return: the library
    :raises MissingExtraError: if it is not installed; the message says how it is
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        root = name.partition(".")[0]
        if (error.name or "").partition(".")[0] != root:
            raise
        install = _INSTALL.get(root, root)
        raise MissingExtraError(f"{wanted_by} needs the library {root}: pip install {install}") from error


def thing(place: str, what: str) -> object:
    """
    :param place: ``package.module:name`` or ``file.py:name``
    :param what: what it is to be, for messages, such as ``model``
    :return: what stands there
    :raises ConfigError: if there is no such file, module or name
    """
    where, _, name = place.rpartition(":")
    module = _file(where, what) if where.endswith(".py") else _module(where, what)
    if not hasattr(module, name):
        close = get_close_matches(name, [own for own in vars(module) if not own.startswith("_")])
        hint = f": do you mean {' or '.join(close)}?" if close else ""
        raise ConfigError(f"{what} {place!r}: {where} has no {name!r}{hint}")
    return getattr(module, name)


def _module(name: str, what: str) -> ModuleType:
    _look_in(os.getcwd())
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        # a module that is there, and lacks one that it imports, says so itself
        if not (error.name and f"{name}.".startswith(f"{error.name}.")):
            raise
        raise ConfigError(f"{what}: there is no module {name!r} here or among the installed ones") from error


def _file(name: str, what: str) -> ModuleType:
    path = Path(name).resolve()
    if not path.is_file():
        raise ConfigError(f"{what}: there is no file {name}")
    _look_in(str(path.parent))  # as `python file.py` would, for the files beside it
    # Its own name, under which the files beside it import it, unless a library has that name.
    taken = getattr(sys.modules.get(path.stem), "__file__", str(path)) != str(path)
    module_name = str(path) if taken else path.stem
    return sys.modules.get(module_name) or _run(module_name, path)


def _run(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None  # there is a loader for every name that ends with .py
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _look_in(folder: str) -> None:
    if folder not in sys.path:
        sys.path.insert(0, folder)
