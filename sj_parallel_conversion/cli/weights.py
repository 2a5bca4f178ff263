"""A state dict from a file into a network."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ..errors import FileError

_INSIDE = ("state_dict", "model_state_dict", "model", "net")  # where training scripts put it beside other things
_PREFIXES = ("module.", "_orig_mod.")  # of DataParallel and torch.compile
_FEW = 3


def load_weights(network: nn.Module, file: str) -> None:
    """
    :param network: gets the weights
    :param file: a state dict, by ``torch.save`` or as ``.safetensors``; one in a training checkpoint is found
    :raises FileError: if it cannot be read, or belongs to another network; the message names tensors that do not fit
    """
    state = _without_prefix(_state_in(_read(Path(file)), file))
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise FileError(
            f"{file} does not fit {type(network).__name__}: {_difference(network.state_dict(), state) or error}"
        ) from error


def _read(path: Path) -> object:
    if not path.is_file():
        raise FileError(f"{path}: there is no such file")
    try:
        return load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise FileError(
            f"{path} is no state dict: it is damaged, or holds Python objects, whose code is not run. Save the weights "
            "alone: torch.save(model.state_dict(), path)"
        ) from error
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise FileError(f"{path} cannot be read as a state dict: {error}") from error


def _state_in(content: object, file: str) -> Mapping[str, Tensor]:
    for name in _INSIDE:
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
    if not isinstance(content, Mapping) or not any(isinstance(value, Tensor) for value in content.values()):
        raise FileError(f"{file} holds no state dict but a {type(content).__name__} without tensors by name")
    return content


def _without_prefix(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def _difference(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str:
    both = [name for name in own if name in given and isinstance(own[name], Tensor)]
    shapes = [(name, list(given[name].shape), list(own[name].shape)) for name in both]
    found = {
        "it lacks": [name for name in own if name not in given],
        "the network has no": [name for name in given if name not in own],
        "other shapes:": [f"{name} {theirs} for {ours}" for name, theirs, ours in shapes if theirs != ours],
    }
    return "; ".join(f"{words} {_some(names)}" for words, names in found.items() if names)


def _some(names: list[str]) -> str:
    more = len(names) - _FEW
    return ", ".join(names[:_FEW]) + (f" and {more} more" if more > 0 else "")
