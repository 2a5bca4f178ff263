"""What counts as a ReLU: modules, calls of functions and methods in every spelling, and names in code."""

from __future__ import annotations

import math
from collections.abc import Callable
from inspect import unwrap
from types import CodeType, FunctionType
from typing import Any, NamedTuple, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrize import ParametrizationList

from ..errors import ConversionError

_ARGUMENTS = {
    "relu": ("inplace",), "relu6": ("inplace",), "hardtanh": ("min_val", "max_val", "inplace"),
    "clamp": ("min", "max"), "clip": ("min", "max"), "clamp_min": ("min",),
}  # fmt: skip
_UPPER = dict.fromkeys(_ARGUMENTS, math.inf) | {"relu6": 6.0, "hardtanh": 1.0}  # where it cuts, if no argument says it
SPELLINGS = frozenset(f"{name}{end}" for name in _ARGUMENTS for end in ("", "_"))
_SPACES = (torch, F, torch.Tensor, torch.ops.aten)
_FUNCTIONS = {getattr(space, name): name for name in SPELLINGS for space in _SPACES if hasattr(space, name)}
_OTHER_NAMES = (
    "celu", "elu", "gelu", "hardsigmoid", "hardswish", "leaky_relu", "logsigmoid", "mish", "prelu", "rrelu", "selu",
    "sigmoid", "silu", "softplus", "softsign", "tanh", "tanhshrink", "threshold",
)  # fmt: skip
# Functions that are activations, but no ReLUs, and what they are called.
OTHER_ACTIVATIONS = {
    getattr(space, f"{name}{end}"): name
    for name in _OTHER_NAMES for end in ("", "_") for space in _SPACES if hasattr(space, f"{name}{end}")
}  # fmt: skip
_KNOWN = ("torch", __name__.partition(".")[0])  # packages whose code is not read


class ReLUCall(NamedTuple):
    """
    What a ReLU works on, what it is called, such as ``"clamp"``, the tensor that it writes to, if any, and the value
    at which it cuts.
    """

    x: Tensor
    name: str
    target: Tensor | None
    upper: float


def relu_call(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, object]) -> ReLUCall | None:
    """The call of a function of torch, if it is that of a ReLU (on no parameter, and no whole numbers like indices)."""
    spelling = _FUNCTIONS.get(getattr(function, "overloadpacket", function))
    x = args[0] if args else kwargs.get("input", kwargs.get("self"))
    if spelling is None or not isinstance(x, Tensor) or isinstance(x, nn.Parameter) or not x.is_floating_point():
        return None
    name = spelling.removesuffix("_")
    arguments = dict(zip(_ARGUMENTS[name], args[1:], strict=False)) | kwargs
    if name not in ("relu", "relu6") and not _cuts_at_zero(arguments):
        return None
    in_place = spelling.endswith("_") or bool(arguments.get("inplace"))
    _, upper = _ends(arguments)
    return ReLUCall(x, name, x if in_place else arguments.get("out"), _UPPER[name] if upper is None else upper)


def _ends(arguments: dict[str, Any]) -> tuple[Any, Any]:
    lower, upper = (arguments.get(end, arguments.get(f"{end}_val")) for end in ("min", "max"))
    return lower, upper


def _cuts_at_zero(arguments: dict[str, object]) -> bool:
    lower, upper = _ends(arguments)
    if not isinstance(lower, (int, float)) or lower != 0:
        return False
    return upper is None or (isinstance(upper, (int, float)) and upper > 0)


def is_relu(module: nn.Module) -> TypeGuard[nn.ReLU | nn.Hardtanh]:
    """Whether it is a ReLU, ReLU6 or Hardtanh from 0. A subclass with its own ``forward`` is code that calls a ReLU."""
    forward = type(module).forward
    return forward is nn.ReLU.forward or (forward is nn.Hardtanh.forward and bool(module.min_val == 0))


def upper_of(relu: nn.Module) -> float:
    """The value at which a ReLU module cuts: 6 for a ReLU6."""
    return relu.max_val if isinstance(relu, nn.Hardtanh) else math.inf


def modules_of(model: nn.Module) -> dict[str, nn.Module]:
    """The modules of ``model`` by name, without those that compute weights: a ReLU in them is no activation."""
    lists = (module for module in model.modules() if isinstance(module, ParametrizationList))
    weights = {id(part) for module in lists for part in module.modules()}
    return {name: module for name, module in model.named_modules() if id(module) not in weights}


def named(name: str, module: nn.Module) -> str:
    """A module in words: its name in the network, and its class."""
    return f"{name} ({type(module).__name__})" if name else type(module).__name__


def names_in(module: nn.Module) -> set[str]:
    """The names in the code of a user's module: of its ``forward``, and of methods that this names."""
    if isinstance(module, nn.TransformerDecoderLayer):
        return {"relu"}  # torch's own, and copies of it call the function
    names: set[str] = set()
    waiting = ["forward"]
    while waiting:
        found: Any = getattr(type(module), waiting.pop(), None)
        method = unwrap(found)
        if isinstance(method, FunctionType) and method.__module__.partition(".")[0] not in _KNOWN:
            new = _names_in_code(method.__code__) - names
            names |= new
            waiting += new
    return names


def _names_in_code(code: CodeType) -> set[str]:
    inner = (_names_in_code(constant) for constant in code.co_consts if isinstance(constant, CodeType))
    return set(code.co_names).union(*inner)


def prepare_layers_of_torch(model: nn.Module) -> None:
    """Give transformer layers their ReLU as a module, and switch off the kernel that would pass it by. Refuse RNNs."""
    for name, module in model.named_modules():
        if isinstance(module, (nn.RNN, nn.RNNCell)) and module.nonlinearity == "relu":
            raise ConversionError(
                f"the ReLUs inside {named(name, module)} cannot be replaced: torch computes the whole layer at once. "
                "Use nonlinearity='tanh', or write the recurrence out in a module of your own"
            )
        if isinstance(module, nn.TransformerEncoderLayer):
            if module.activation in (F.relu, torch.relu):
                module.activation = nn.ReLU()
            if isinstance(module.activation, nn.Module) and is_relu(module.activation):
                module.activation_relu_or_gelu = 0
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoder):
            module.use_nested_tensor &= all(getattr(layer, "activation_relu_or_gelu", 1) for layer in module.layers)
