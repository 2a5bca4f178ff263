"""
What a state dict says about the options that give its tensors their meaning, so that those of others are refused.

It is a uint8 tensor of JSON, because whatever holds state dicts can hold tensors: safetensors, ``weights_only=True``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import StateDictError
from ..user_warnings import warn

Record = dict[str, object]
_KEY = "_extra_state"  # torch's name for what is no parameter and no buffer


class Recorded(nn.Module):
    """Base of modules whose state dict carries a record, which torch stores as their extra state."""

    def record(self) -> Record:
        """Options that change what the tensors mean, by name."""
        raise NotImplementedError

    def get_extra_state(self) -> Tensor:
        """The record as bytes."""
        return torch.tensor(list(json.dumps(self.record()).encode()), dtype=torch.uint8)

    def set_extra_state(self, state: object) -> None:
        """Nothing is set: what is loaded was compared before."""

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: object) -> None:
        # Before anything is loaded, so that a module that refuses a state dict stays as it was.
        self.check_state_dict(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def check_state_dict(self, state_dict: Mapping[str, object], prefix: str = "") -> None:
        """
        :param state_dict: tensors by name, of this module or one that contains it
        :param prefix: what stands before the names of this module
        :raises StateDictError: if the tensors have another meaning; the message names the options that differ
        """
        refuse(self, self.differences(state_dict, prefix), prefix)

    def differences(self, state_dict: Mapping[str, object], prefix: str = "") -> dict[str, tuple[object, object]]:
        """The options that differ: their values in ``state_dict`` and here. None where the dict has no record."""
        saved, own = _read(state_dict, prefix), self.record()
        return {name: (saved[name], value) for name, value in own.items() if name in saved and saved[name] != value}


def has_record(state_dict: Mapping[str, object], prefix: str) -> bool:
    """Whether the module with this prefix has a record in ``state_dict``."""
    return prefix + _KEY in state_dict


def refuse(module: nn.Module, differences: dict[str, tuple[object, object]], prefix: str) -> None:
    """:raises StateDictError: if there are differences; with the values of the state dict and of the module"""
    if not differences:
        return
    theirs, ours = (", ".join(f"{name}={v[i]!r}" for name, v in differences.items()) for i in (0, 1))
    raise StateDictError(
        f"{prefix.removesuffix('.') or type(module).__name__}: the state dict was saved with {theirs}, and what it is "
        f"loaded into has {ours}, where its tensors would mean something else. Convert or build with the options "
        f"of the state dict. (Without its {_KEY!r} entries, strict=False loads tensors as they are.)"
    )


def _read(state_dict: Mapping[str, object], prefix: str) -> Record:
    """The record of a module; an empty one where there is none, or none that can be read."""
    if not has_record(state_dict, prefix):
        return {}
    try:
        # Averages of equal bytes are these bytes, up to rounding.
        values = torch.as_tensor(state_dict[prefix + _KEY]).double().round().tolist()
        record = json.loads(bytes(map(int, values)))
        if isinstance(record, dict):
            return record
    except (ValueError, TypeError, RuntimeError, OverflowError):
        pass
    warn(
        f"the {_KEY!r} entries of the state dict cannot be read, so that nothing shows whether its tensors mean the "
        "same here. When you change a state dict, change its floating-point tensors alone"
    )
    return {}
