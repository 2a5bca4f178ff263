"""Modules and functions of the user's own: a file names them, and the reader has to have registered them."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ..ann2snn.graph.registry import ACTIVATIONS, LEAVES, OWN_FUNCTIONS, FunctionActivation
from ..ann2snn.network.standing_for import OF_ANY_MODULE
from ..errors import FileError
from .structures import full_name
from .values import Record, decode, encode, need


def is_own(module: nn.Module) -> bool:
    """Whether the class of ``module`` is one that the user has registered."""
    return type(module) in _classes().values()


def _classes() -> dict[str, type[nn.Module]]:
    return {full_name(cls): cls for cls in (*LEAVES, *ACTIVATIONS)}


def encode_own(module: nn.Module) -> Record:
    """
    :param module: of a class that :func:`is_own`
    :return: the name of its class, and its attributes beside tensors and modules
    :raises FileError: if an attribute has no form in a file
    """
    attributes = {}
    for name, value in vars(module).items():
        if name in OF_ANY_MODULE:
            continue
        try:
            attributes[name] = encode(value)
        except FileError as error:
            raise FileError(f"its attribute {name!r}: {error}") from error
    return {"own": full_name(type(module)), "attributes": attributes}


def decode_own(record: Record, children: dict[str, nn.Module]) -> nn.Module:
    """
    :param record: of :func:`encode_own`, from a file that may be damaged
    :param children: its modules
    :return: the module, without its tensors
    :raises FileError: if its class is not registered; the message names it
    """
    name = record["own"]
    cls = _classes().get(name)
    if cls is None:
        raise FileError(
            f"it is a {str(name)[:80]}, whose code is not in the file. Import that class and call "
            f"sj_parallel_conversion.register_leaf (or register_activation) with it before you load the file"
        )
    module = cls.__new__(cls)
    nn.Module.__init__(module)
    for key, value in record["attributes"].items():
        need(key not in OF_ANY_MODULE and not key.startswith("__"), f"its attribute {key[:80]!r} is none of its own")
        module.__dict__[key] = decode(value)
    for key, child in children.items():
        module.add_module(key, child)
    return module


def encode_function_activation(module: FunctionActivation) -> Record:
    """As :func:`encode_own` for a registered function."""
    return {
        "function": _function_name(module.function),
        "attributes": {name: encode(getattr(module, name)) for name in ("bounds", "arguments", "named")},
    }


def decode_function_activation(record: Record) -> FunctionActivation:
    """As :func:`decode_own` for a registered function."""
    name = record["function"]
    function = {_function_name(f): f for f in OWN_FUNCTIONS if getattr(Tensor, f.__name__, None) is not f}.get(name)
    if function is None:
        raise FileError(
            f"it calls the function {str(name)[:80]}, whose code is not in the file. Import it and call "
            "sj_parallel_conversion.register_activation with it before you load the file"
        )
    values = {key: decode(value) for key, value in record["attributes"].items()}
    return FunctionActivation(function, values["bounds"], *values["arguments"], **values["named"])


def _function_name(function: Any) -> str:
    return full_name(function) if getattr(function, "__module__", None) else f"torch.{function.__name__}"
