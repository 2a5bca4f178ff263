"""The activations that a neuron can stand for, one row each, and the modules that stay whole. Users add their own."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import ConfigError
from ...neuron.activations import DAQCFS, QCFS, ClipReLU, SpikingIdentity

Bounds = tuple[float, float]


@dataclass(frozen=True)
class Activation:
    """
    A function of each value alone, as a module and as functions and tensor methods that do the same.

    :param module: the module's class
    :param bounds: its least and greatest value, or ``module -> (lower, upper)`` where they depend on its arguments
    :param functions: functions that take the arguments of the module after the input
    :param methods: names of tensor methods that do
    :param arguments: names of these arguments, in the order of the functions
    """

    module: type[nn.Module]
    bounds: Bounds | Callable[[nn.Module], Bounds]
    functions: tuple[Callable, ...] = ()
    methods: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()


_ANY = (-math.inf, math.inf)
_POSITIVE = (0.0, math.inf)
# Least values that have no closed form are rounded down.
ROWS = (
    Activation(nn.ReLU, _POSITIVE, (F.relu, torch.relu), ("relu",)),
    Activation(nn.ReLU6, (0.0, 6.0), (F.relu6,)),
    Activation(nn.Hardtanh, lambda m: (m.min_val, m.max_val), (F.hardtanh,), (), ("min_val", "max_val")),
    Activation(nn.Sigmoid, (0.0, 1.0), (F.sigmoid, torch.sigmoid, torch.special.expit), ("sigmoid",)),
    Activation(nn.Hardsigmoid, (0.0, 1.0), (F.hardsigmoid,)),
    Activation(nn.Softplus, _POSITIVE, (F.softplus,), (), ("beta", "threshold")),
    Activation(nn.Tanh, (-1.0, 1.0), (F.tanh, torch.tanh), ("tanh",)),
    Activation(nn.Softsign, (-1.0, 1.0), (F.softsign,)),
    Activation(nn.GELU, (-0.1701, math.inf), (F.gelu,), (), ("approximate",)),
    Activation(nn.SiLU, (-0.2785, math.inf), (F.silu,)),
    Activation(nn.Mish, (-0.3089, math.inf), (F.mish,)),
    Activation(nn.Hardswish, (-0.375, math.inf), (F.hardswish,)),
    Activation(nn.ELU, lambda m: (min(-m.alpha, 0.0), math.inf), (F.elu,), (), ("alpha",)),
    Activation(nn.CELU, lambda m: (min(-m.alpha, 0.0), math.inf), (F.celu, torch.celu), (), ("alpha",)),
    Activation(nn.SELU, (-1.7581, math.inf), (F.selu, torch.selu)),
    Activation(nn.LeakyReLU, _ANY, (F.leaky_relu,), (), ("negative_slope",)),
    Activation(nn.PReLU, _ANY, (F.prelu, torch.prelu), ("prelu",), ("weight",)),
    Activation(nn.RReLU, _ANY, (F.rrelu, torch.rrelu), (), ("lower", "upper", "training")),
    Activation(nn.LogSigmoid, (-math.inf, 0.0), (F.logsigmoid,)),
    Activation(nn.Hardshrink, _ANY, (F.hardshrink, torch.hardshrink), ("hardshrink",), ("lambd",)),
    Activation(nn.Softshrink, _ANY, (F.softshrink,), (), ("lambd",)),
    Activation(nn.Tanhshrink, _ANY, (F.tanhshrink,)),
    Activation(
        nn.Threshold, lambda m: (min(m.threshold, m.value), math.inf), (F.threshold, torch.threshold), (),
        ("threshold", "value"),
    ),
    *(Activation(own, _POSITIVE) for own in (QCFS, DAQCFS, ClipReLU)),
    Activation(SpikingIdentity, _ANY),
)  # fmt: skip

ACTIVATIONS: dict[type[nn.Module], Activation] = {row.module: row for row in ROWS}
SPELLINGS: dict[object, Activation] = {name: row for row in ROWS for name in (*row.functions, *row.methods)}
OWN_FUNCTIONS: dict[object, Bounds] = {}  # functions and names of tensor methods that users registered
LEAVES: list[type[nn.Module]] = [QCFS, DAQCFS, ClipReLU, SpikingIdentity]  # the tracer must not look inside


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
    return row.module is not nn.Hardtanh or module.min_val == 0


def _row(module: nn.Module) -> Activation | None:
    return next((ACTIVATIONS[cls] for cls in type(module).__mro__ if cls in ACTIVATIONS), None)


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
        if isinstance(value, bool) or not isinstance(value, (int, float)) or math.isnan(value):
            raise ConfigError(f"register_activation({name}): {side} must be a number, got {value!r}")
    if not lower <= 0 <= upper or lower == upper:
        raise ConfigError(
            f"register_activation({name}): level 0 stands for 0, so lower <= 0 <= upper (and lower < upper) is needed; "
            f"got lower={lower}, upper={upper}"
        )
    if activation in (row.module for row in ROWS) or activation in SPELLINGS:
        raise ConfigError(f"register_activation: {name} is known already")
    if isinstance(activation, type):
        register_leaf(activation)
        ACTIVATIONS[activation] = Activation(activation, (float(lower), float(upper)))
        return
    OWN_FUNCTIONS[activation] = (float(lower), float(upper))
    plain = activation.__name__
    if getattr(torch, plain, None) is activation and hasattr(Tensor, plain):
        OWN_FUNCTIONS[plain] = (float(lower), float(upper))


def register_leaf(module_type: type[nn.Module]) -> None:
    """
    Keep modules of a class whole: the tracer does not look inside, and in the converted network they stay as they are,
    on decoded values.

    :param module_type: a subclass of ``nn.Module``
    :raises ConfigError: if it is none
    """
    general = (nn.Module, nn.Sequential, nn.ModuleList, nn.ModuleDict)
    if not (isinstance(module_type, type) and issubclass(module_type, nn.Module)) or module_type in general:
        raise ConfigError(f"register_leaf: an own subclass of torch.nn.Module is needed, got {module_type!r}")
    _importable("register_leaf", module_type)
    if module_type not in LEAVES:
        LEAVES.append(module_type)


def python_functions() -> Iterator[Callable]:
    """The registered functions that the tracer would look into."""
    return (f for f in OWN_FUNCTIONS if hasattr(f, "__code__"))


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
