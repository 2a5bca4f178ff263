"""
The only file that knows which SpikingJelly release is installed.

Releases are told apart by what they offer and not by their version, because source trees between releases are in use.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

from torch import nn

from .errors import UnsupportedReleaseError

SUPPORTED_RELEASES = ("0.0.0.0.14", "2.0.0")


def _unsupported(reason: object) -> UnsupportedReleaseError:
    return UnsupportedReleaseError(
        f"sj_parallel_conversion needs SpikingJelly {' or '.join(SUPPORTED_RELEASES)}, and what is installed cannot be "
        f"used ({reason}). Install one of them (pip install spikingjelly=={SUPPORTED_RELEASES[-1]}), or the module "
        "that it misses"
    )


try:
    from spikingjelly.activation_based import ann2snn, neuron
    from spikingjelly.activation_based.ann2snn import Converter
    from spikingjelly.activation_based.base import MemoryModule, MultiStepModule
    from spikingjelly.activation_based.layer import StepModeContainer
except ImportError as error:
    raise _unsupported(error) from error


try:
    from spikingjelly.activation_based import op_counter
except ImportError:  # 0.0.0.0.14
    op_counter = None


_UNKNOWN = "a name that no conversion has"


@dataclass(frozen=True)
class ConverterDialect:
    """
    How SpikingJelly's own ``Converter`` is spoken to.

    :param argument: the argument of ``__init__`` that takes the name of a conversion
    :param method: the method that converts
    :param neutral: a value of ``argument`` that ``__init__`` accepts as it stands
    :param own_values: in words, what SpikingJelly itself takes as ``argument``
    :param usage: how a mode of this package is asked for
    """

    argument: str
    method: str
    neutral: object
    own_values: str
    usage: str

    @property
    def foreign_argument(self) -> str:
        """What the other supported release calls ``argument``."""
        return "mode" if self.argument == "recipe" else "recipe"

    def knows(self, name: str) -> bool:
        """Whether ``Converter`` has a conversion of this name, even one that asks for further arguments."""
        refusal, unknown = self._refusal(name), self._refusal(_UNKNOWN)
        return not refusal or refusal != [words.replace(_UNKNOWN, name) for words in unknown]

    def _refusal(self, name: str) -> list[str]:
        """The error that ``Converter`` has for this name, nothing if it takes it."""
        try:
            Converter(**{"dataloader": None} if self.argument == "mode" else {}, **{self.argument: name})
        except Exception as error:  # another plugin's Converter may raise anything
            return [type(error).__name__, str(error)]
        return []


def _dialect() -> ConverterDialect:
    parameters = inspect.signature(Converter).parameters
    if "recipe" in parameters and hasattr(Converter, "convert"):
        return ConverterDialect(
            "recipe",
            "convert",
            neutral=ann2snn.ConversionRecipe(),
            own_values="'transformer_td_equivalent' or a recipe object",
            usage="Converter(recipe={mode!r}, dataloader=dataloader).convert(ann)",
        )
    if {"dataloader", "mode"} <= parameters.keys() and hasattr(Converter, "forward"):
        return ConverterDialect(
            "mode",
            "forward",
            neutral="max",
            own_values="'max', a percentile such as '99.9%' or a float in (0, 1]",
            usage="Converter(dataloader, mode={mode!r})(ann)",
        )
    raise _unsupported(f"its ann2snn.Converter takes {', '.join(parameters)}")


class _ModuleConversionRecipe:
    """What SpikingJelly 2.0.0 calls a ModuleConversionRecipe, for releases without one."""

    def validate(self, converter: object) -> None:
        """Check the recipe before a conversion."""

    def convert_module(self, converter: object, ann: nn.Module) -> nn.Module:
        """Convert ``ann``."""
        return ann


def synop_counter() -> Any:
    """
    :return: a new ``SynOpCounter`` of SpikingJelly
    :raises UnsupportedReleaseError: if the installed release has none
    """
    if not hasattr(op_counter, "SynOpCounter"):
        raise UnsupportedReleaseError(
            "this release of SpikingJelly has no counter of synaptic operations (op_counter.SynOpCounter). Install "
            f"SpikingJelly {SUPPORTED_RELEASES[-1]}, or use sj_parallel_conversion.count_operations"
        )
    return op_counter.SynOpCounter()


DIALECT = _dialect()
ModuleConversionRecipe: type = getattr(ann2snn, "ModuleConversionRecipe", _ModuleConversionRecipe)

__all__ = [
    "DIALECT",
    "SUPPORTED_RELEASES",
    "Converter",
    "ConverterDialect",
    "MemoryModule",
    "ModuleConversionRecipe",
    "MultiStepModule",
    "StepModeContainer",
    "ann2snn",
    "neuron",
    "synop_counter",
]
