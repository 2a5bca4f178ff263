"""What can be set on a converted network, and errors for what would do nothing."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from torch import nn

from ...errors import ConfigError
from ..config import ConversionConfig

EXECUTIONS = ("spikes", "packed", "stepwise", "serial")
STEP_BY_STEP = ("stepwise", "serial")  # executions that run all synapses at each step
_REPLACED = {"step_by_step": "stepwise", "serial": "serial"}
_OF_THE_CONVERSION = {field.name for field in fields(ConversionConfig)} - {"backend"}


class RemovedOptionError(ConfigError, AttributeError):
    """An option that another one replaced. It is an AttributeError too, so that ``hasattr`` answers False."""


class NetworkOptions(nn.Module):
    """
    Base of the converted networks: refuses options that another one replaced, and options that only a conversion can
    set. Everything else is set as on any module.
    """

    def __getattr__(self, name: str) -> Any:
        if name in _REPLACED:
            raise _replaced(self, name)
        return super().__getattr__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _REPLACED:
            raise _replaced(self, name)
        if name in _OF_THE_CONVERSION:
            raise ConfigError(
                f"{type(self).__name__}: {name} is an option of the conversion and cannot be changed after it. Convert "
                f"the ANN again with {name}={value!r}"
            )
        super().__setattr__(name, value)


def common_value(values: list[str]) -> str:
    """The value that all of them have; ``"mixed"`` if they differ."""
    return values[0] if len(set(values)) == 1 else "mixed"


def _replaced(network: object, name: str) -> RemovedOptionError:
    return RemovedOptionError(
        f"{type(network).__name__}: {name} was replaced by execution. Set snn.execution = {_REPLACED[name]!r} instead "
        f"of snn.{name} = True, and snn.execution = 'spikes' (or 'packed') instead of False"
    )
