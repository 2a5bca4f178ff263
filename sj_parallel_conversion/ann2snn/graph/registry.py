"""The activations that a neuron can stand for, one row each, and the modules that stay whole. Users add their own."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import ConfigError
from ...neuron.activations import DAQCFS, QCFS, ClipReLU, SpikingIdentity, SpikingShare
from .formula import Formula

Bounds = tuple[float, float]


@dataclass(frozen=True)
class Activation:
    """
    A function of each value alone.

    :param module: the module's class
    :param bounds: its least and greatest value, or ``module -> (lower, upper)`` where they depend on its arguments
    """

    module: type[nn.Module]
    bounds: Bounds | Callable[[Any], Bounds]


_ANY = (-math.inf, math.inf)
_POSITIVE = (0.0, math.inf)
# Least values that have no closed form are rounded down.
ROWS = (
    Activation(nn.ReLU, _POSITIVE),
    Activation(nn.ReLU6, (0.0, 6.0)),
    Activation(nn.Hardtanh, lambda m: (m.min_val, m.max_val)),
    Activation(nn.Sigmoid, (0.0, 1.0)),
    Activation(nn.Hardsigmoid, (0.0, 1.0)),
    Activation(nn.Softplus, _POSITIVE),
    Activation(nn.Tanh, (-1.0, 1.0)),
    Activation(nn.GELU, (-0.1701, math.inf)),
    Activation(nn.SiLU, (-0.2785, math.inf)),
    Activation(nn.Mish, (-0.3089, math.inf)),
    Activation(nn.Hardswish, (-0.375, math.inf)),
    Activation(nn.ELU, lambda m: (min(-m.alpha, 0.0), math.inf)),
    Activation(nn.CELU, lambda m: (min(-m.alpha, 0.0), math.inf)),
    Activation(nn.SELU, (-1.7581, math.inf)),
    Activation(nn.LeakyReLU, _ANY),
    Activation(nn.PReLU, _ANY),
    Activation(nn.LogSigmoid, (-math.inf, 0.0)),
    Activation(nn.Hardshrink, _ANY),
    Activation(nn.Softshrink, _ANY),
    Activation(nn.Threshold, lambda m: (min(m.threshold, m.value), math.inf)),
    *(Activation(own, _POSITIVE) for own in (QCFS, DAQCFS, ClipReLU)),
    Activation(SpikingIdentity, _ANY),
    Activation(SpikingShare, (0.0, 1.0)),
    Activation(Formula, lambda m: m.bounds),
)

ACTIVATIONS: dict[type[nn.Module], Activation] = {row.module: row for row in ROWS}
OWN_FUNCTIONS: dict[Callable[..., Any], Bounds] = {}  # functions and tensor methods that users registered
# Modules that stay whole: the capture does not look inside.
_BUILT_IN = (QCFS, DAQCFS, ClipReLU, SpikingIdentity, nn.RNNBase, nn.RNNCellBase)
LEAVES: list[type[nn.Module]] = list(_BUILT_IN)


class FunctionActivation(nn.Module):
    """
    A registered function as a module.

    :param function: it takes the input first
    :param bounds: its least and greatest value
    :param arguments: what follows the input at this call
    """

    def __init__(self, function: Callable[..., Tensor], bounds: Bounds, *arguments: object, **named: object) -> None:
        super().__init__()
        self.function, self.bounds, self.arguments, self.named = function, bounds, arguments, named

    def forward(self, x: Tensor) -> Tensor:
        """:param x: ``[N, ...]``. :return: the same shape"""
        return self.function(x, *self.arguments, **self.named)

    def extra_repr(self) -> str:
        """What ``print`` shows of it."""
        return getattr(self.function, "__name__", repr(self.function))


def bounds(module: nn.Module) -> Bounds | None:
    """The least and greatest value of an activation; ``None`` if ``module`` is none that a neuron can stand for."""
    if isinstance(module, FunctionActivation):
        return module.bounds
    row = _row(module)
    if row is None:
        return None
    lower, upper = row.bounds(module) if callable(row.bounds) else row.bounds
    # Level 0 stands for 0: what cannot be 0, such as a clamp that keeps a divisor away from it, is no activation.
    return (lower, upper) if lower <= 0 <= upper else None


def is_rectifier(module: nn.Module) -> bool:
    """Whether the quantiser's own clipping does what ``module`` does."""
    row = _row(module)
    if row is None or row.module not in (nn.ReLU, nn.ReLU6, nn.Hardtanh, ClipReLU):
        return False
    return row.module is not nn.Hardtanh or bool(module.min_val == 0)


def _row(module: nn.Module) -> Activation | None:
    # A leaf that is a subclass of a known activation may be any function.
    classes = type(module).__mro__
    leaf = next((cls for cls in classes if cls in LEAVES), None)
    known = next((cls for cls in classes if cls in ACTIVATIONS), None)
    if known is None or (leaf is not None and classes.index(leaf) < classes.index(known)):
        return None
    return ACTIVATIONS[known]


def register_activation(
    activation: type[nn.Module] | Callable[..., Tensor], *, lower: float = -math.inf, upper: float = math.inf
) -> None:
    """
    Make an activation known: converters put a spiking neuron in its place. It must work on each value alone. A module
    or a Python function is no longer traced into; a function is found where it is called as a global of any file or
    as an attribute of an ``nn.Module``, with constants for its further arguments. Registering it again changes its
    bounds.

    :param activation: a subclass of ``nn.Module``, or a function (a Python function, or one of torch such as
        ``torch.erf``, which is then also found as a tensor method)
    :param lower: its least value; below 0 the neuron's spikes are signed
    :param upper: its greatest value
    :raises ConfigError: if it cannot be pickled by its name, is a known activation, or the bounds do not enclose 0
    """
    name = _importable("register_activation", activation)
    for side, value in (("lower", lower), ("upper", upper)):
        if isinstance(value, bool) or not isinstance(value, Real) or math.isnan(value):
            raise ConfigError(f"register_activation({name}): {side} must be a number, got {value!r}")
    if not lower <= 0 <= upper or lower == upper:
        raise ConfigError(
            f"register_activation({name}): level 0 stands for 0, so lower <= 0 <= upper (and lower < upper) is needed; "
            f"got lower={lower}, upper={upper}"
        )
    if any(activation is row.module for row in ROWS):
        raise ConfigError(f"register_activation: {name} is known already")
    if isinstance(activation, type):
        register_leaf(activation)
        ACTIVATIONS[activation] = Activation(activation, (float(lower), float(upper)))
        return
    for function in _spellings(activation):
        OWN_FUNCTIONS[function] = (float(lower), float(upper))


def _spellings(function: Callable[..., Any]) -> list[Callable[..., Any]]:
    """The function, and the tensor method that is the same function of torch."""
    name = function.__name__
    is_torch = getattr(torch, name, None) is function and hasattr(Tensor, name)
    return [function, getattr(Tensor, name)] if is_torch else [function]


def unregister_activation(activation: type[nn.Module] | Callable[..., Tensor]) -> None:
    """
    Take :func:`register_activation` back.

    :param activation: what was registered
    :raises ConfigError: if it was not
    """
    if isinstance(activation, type) and activation in ACTIVATIONS and all(row.module is not activation for row in ROWS):
        del ACTIVATIONS[activation]
        unregister_leaf(activation)
    elif activation in OWN_FUNCTIONS:
        for function in _spellings(activation):
            del OWN_FUNCTIONS[function]
    else:
        raise ConfigError(f"unregister_activation: {activation!r} is not registered")


def unregister_leaf(module_type: type[nn.Module]) -> None:
    """
    Take :func:`register_leaf` back.

    :param module_type: what was registered
    :raises ConfigError: if it was not
    """
    if module_type not in LEAVES or module_type in _BUILT_IN:
        raise ConfigError(f"unregister_leaf: {module_type!r} is not registered")
    LEAVES.remove(module_type)


def register_leaf(module_type: type[nn.Module]) -> None:
    """
    Keep modules of a class whole: the capture does not look inside, and in the converted network they stay as they
    are, on decoded values. Recurrent layers and cells of torch are leaves already. :func:`unregister_leaf` takes it
    back.

    :param module_type: a subclass of ``nn.Module``
    :raises ConfigError: if it is none
    """
    general = (nn.Module, nn.Sequential, nn.ModuleList, nn.ModuleDict)
    if not (isinstance(module_type, type) and issubclass(module_type, nn.Module)) or module_type in general:
        raise ConfigError(f"register_leaf: an own subclass of torch.nn.Module is needed, got {module_type!r}")
    _importable("register_leaf", module_type)
    if module_type not in LEAVES:
        LEAVES.append(module_type)


def _importable(what: str, thing: object) -> str:
    is_module = isinstance(thing, type) and issubclass(thing, nn.Module)
    if not is_module and (isinstance(thing, (type, nn.Module)) or not callable(thing)):
        raise ConfigError(f"{what}: a subclass of torch.nn.Module or a function is needed, got {thing!r}")
    try:
        found = pickle.loads(pickle.dumps(thing)) is thing
    except Exception:
        found = False
    if not found or not hasattr(thing, "__name__"):
        raise ConfigError(
            f"{what}: {thing!r} cannot be found by its name, so that a network that uses it could not be saved. "
            "Define it with def or class at the top level of a file, and undecorated"
        )
    return thing.__name__
