"""Operators that torch has an activation module for."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor, fx, nn

from .operations import operator_of
from .plain import value_of

Arguments = dict[str, Any]


_GUARD = 1e4  # a clamp of that range keeps numbers finite, and is no activation


def _clamp(a: Arguments) -> nn.Module | None:
    low, high = a.get("min"), a.get("max")
    if any(isinstance(value, fx.Node) for value in (low, high)):
        return None
    if low == 0 and high is None:
        return nn.ReLU()
    lower, upper = -math.inf if low is None else low, math.inf if high is None else high
    if lower == 0 and upper == 6:
        return nn.ReLU6()
    encloses_0 = lower <= 0 <= upper and lower < upper
    return nn.Hardtanh(lower, upper) if encloses_0 and min(-lower, upper) < _GUARD else None


def _rrelu(a: Arguments) -> nn.Module | None:
    return None if a.get("training") else nn.LeakyReLU((a["lower"] + a["upper"]) / 2)


def _threshold(a: Arguments) -> nn.Module:
    return nn.ReLU() if a["threshold"] == a["value"] == 0 else nn.Threshold(a["threshold"], a["value"])


def _hardtanh(a: Arguments) -> nn.Module | None:
    return _clamp({"min": a.get("min_val", -1), "max": a.get("max_val", 1)})


def _elu(a: Arguments) -> nn.Module | None:
    alpha, scale, input_scale = a.get("alpha", 1), a.get("scale", 1), a.get("input_scale", 1)
    if scale == 1 and input_scale == 1:
        return nn.ELU(alpha)
    if scale == 1 and math.isclose(input_scale * alpha, 1):
        return nn.CELU(alpha)
    if math.isclose(alpha, 1.6732632423543772) and math.isclose(scale, 1.0507009873554805):
        return nn.SELU()
    return None


_MODULES: dict[str, Callable[[Arguments], nn.Module | None]] = {
    "relu": lambda a: nn.ReLU(), "relu6": lambda a: nn.ReLU6(), "hardtanh": _hardtanh,
    "clamp": _clamp, "clamp_min": _clamp, "clamp_max": _clamp,
    "sigmoid": lambda a: nn.Sigmoid(), "hardsigmoid": lambda a: nn.Hardsigmoid(), "tanh": lambda a: nn.Tanh(),
    "softplus": lambda a: nn.Softplus(a.get("beta", 1), a.get("threshold", 20)),
    "gelu": lambda a: nn.GELU(a.get("approximate", "none")),
    "silu": lambda a: nn.SiLU(), "mish": lambda a: nn.Mish(), "hardswish": lambda a: nn.Hardswish(),
    "elu": _elu, "celu": lambda a: nn.CELU(a.get("alpha", 1)), "selu": lambda a: nn.SELU(),
    "leaky_relu": lambda a: nn.LeakyReLU(a.get("negative_slope", 0.01)),
    "log_sigmoid": lambda a: nn.LogSigmoid(),
    "hardshrink": lambda a: nn.Hardshrink(a.get("lambd", 0.5)),
    "softshrink": lambda a: nn.Softshrink(a.get("lambd", 0.5)),
    "threshold": _threshold, "rrelu": _rrelu,
}  # fmt: skip


def known_activation(model: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    """
    :param model: a captured network
    :param node: a call of an operator
    :return: a new module that does the same; ``None`` if torch has none, or its arguments are no constants
    """
    name = operator_of(node)
    if name == "prelu":
        return _prelu(model, node)
    if name not in _MODULES:
        return None
    schema = node.target._schema.arguments
    arguments = {a.name: a.default_value for a in schema if a.has_default_value() and a.default_value is not None}
    arguments |= dict(zip((a.name for a in schema), node.args, strict=False)) | node.kwargs
    x = schema[0].name
    arguments = {key: value if key == x else _number(model, value) for key, value in arguments.items()}
    if any(isinstance(value, fx.Node) for key, value in arguments.items() if key != x):
        return None
    return _MODULES[name](arguments)


def _number(model: fx.GraphModule, value: object) -> object:
    """The number in a constant tensor, such as a trained bound; everything else as it is."""
    if isinstance(value, fx.Node) and value.op == "get_attr":
        tensor: Tensor = value_of(model, value.target)
        return tensor.item() if tensor.numel() == 1 else value
    return value


def _prelu(model: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    weight = node.args[1]
    if not isinstance(weight, fx.Node) or weight.op != "get_attr":
        return None
    value: Tensor = value_of(model, weight.target)
    module = nn.PReLU(value.numel())
    module.weight = nn.Parameter(value.detach().clone().flatten(), value.requires_grad)
    return module
