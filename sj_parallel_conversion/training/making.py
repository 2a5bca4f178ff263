"""The activation that a user names: what it can be called with, and the modules that it makes."""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature

from torch import nn

from ..errors import ConfigError


def _call(activation: Callable[..., nn.Module], kwargs: dict[str, object]) -> str:
    given = ", ".join(f"{key}={value!r}" for key, value in kwargs.items())
    return f"activation: {getattr(activation, '__name__', repr(activation))}({given})"


def check_arguments(activation: Callable[..., nn.Module], kwargs: dict[str, object]) -> None:
    """
    :param activation: makes a module
    :param kwargs: what it is called with
    :raises ConfigError: if there is no such option, or one is missing, also where there is nothing to replace
    """
    try:
        takes = signature(activation)
    except (TypeError, ValueError):  # a callable that is not written in Python
        return
    try:
        takes.bind_partial(**kwargs)  # names what does not exist before what is missing
        takes.bind(**kwargs)
    except TypeError as error:
        options = ", ".join(str(p.replace(annotation=p.empty)) for p in takes.parameters.values())
        raise ConfigError(f"{_call(activation, kwargs)} fails: {error}. The options are: {options}") from error


def make_activation(activation: Callable[..., nn.Module], kwargs: dict[str, object]) -> nn.Module:
    """
    :param activation: makes a module
    :param kwargs: what it is called with
    :return: the module
    :raises ConfigError: if that fails, or is no module
    """
    try:
        module = activation(**kwargs)
    except TypeError as error:
        raise ConfigError(f"{_call(activation, kwargs)} fails: {error}") from error
    if not isinstance(module, nn.Module):
        raise ConfigError(f"{_call(activation, kwargs)} must make a torch.nn.Module, got {type(module).__name__}")
    return module
