"""Names in the graph: those that the modules, the weights and the calling modules have in the model."""

from __future__ import annotations

import itertools
import keyword

import torch
from torch import fx, nn

from ...torch_compat import module_stack, packet_name

aten = torch.ops.aten
# Operators that have two names; what the rest of the package knows is the second.
_SAME = {
    "multiply": "mul", "divide": "div", "true_divide": "div", "subtract": "sub", "negative": "neg", "absolute": "abs",
    "concat": "cat", "concatenate": "cat", "row_stack": "vstack", "moveaxis": "movedim", "clip": "clamp",
    "special_expit": "sigmoid", "fix": "trunc", "arctan": "atan", "arcsinh": "asinh",
    "special_erf": "erf", "special_expm1": "expm1", "special_log1p": "log1p", "special_softmax": "softmax",
    "greater": "gt", "greater_equal": "ge", "less": "lt", "less_equal": "le", "not_equal": "ne",
}  # fmt: skip


def first_name(node: fx.Node) -> object:
    """The function that ``node`` calls; of an operator that has two names, the usual one."""
    name = packet_name(node.target)
    if node.target in (aten.view.default, aten._unsafe_view.default):
        return aten.reshape.default  # views fail for other layouts of the same values
    if name in ("swapaxes", "swapdims") and not node.kwargs:
        return aten.transpose.int
    if name not in _SAME:
        return node.target
    overload = "Tensor" if name == "true_divide" else node.target._overloadname
    return getattr(getattr(aten, _SAME[name]), overload, node.target)


def innermost(stack: list[str]) -> str:
    """The innermost module of a stack of :func:`module_stack`, without the wrapper and the number of its call."""
    path = stack[-1].partition("@")[0] if stack else ""
    return path.removeprefix("model").removeprefix(".")


def argument_name(name: str, taken: set[str]) -> str:
    """
    :param name: of an input, such as ``features[0]``
    :param taken: the names of other inputs
    :return: an identifier for it, of which ``*[0]``, the first of variadic arguments, is none
    """
    name = "".join(c if c.isalnum() else "_" for c in name).strip("_")
    name = name if name.isidentifier() and not keyword.iskeyword(name) else f"x_{name}"
    return next(n for k in itertools.count() if (n := f"{name}_{k}" if k else name) not in taken)


class Names:
    """
    Hands out names, each once. No module stands below another that is a layer or an activation.

    :param model: the model; it tells which modules have modules in them
    """

    def __init__(self, model: nn.Module) -> None:
        modules = model.named_modules(remove_duplicate=False)
        # what computes a weight is part of the layer
        self._containers = {name for name, module in modules if module._modules.keys() - {"parametrizations"}}
        self._taken: set[str] = set()

    def free(self, wanted: str) -> str:
        """``wanted``, or ``wanted_1``, ``wanted_2``, ... if that is taken."""
        name, k = wanted, 0
        while self._is_taken(name):
            k += 1
            name = f"{wanted}_{k}"
        self._taken.add(name)
        return name

    def of_layer(self, node: fx.Node, operation: str, weight: str | None) -> str:
        """
        :param node: the call of a layer
        :param operation: the name of its operator
        :param weight: the name of its weight in the model, if it has one
        :return: a name for the layer: that of the module that has the weight, if that calls it; that of the weight,
            if a module with other layers calls it; otherwise that of the calling module
        """
        path = innermost(module_stack(node))
        owner, _, own = (weight or "").rpartition(".")
        own = own.removesuffix("weight").rstrip("_")
        if weight and path in self._containers | {""}:
            inside = owner == path or owner.startswith(f"{path}.") or not path
            if inside:
                name = ".".join(filter(None, (owner, own)))
                return self.free(name if name and name not in self._containers else f"{name}.{operation}".strip("."))
        return self.of_function(node, operation)

    def of_function(self, node: fx.Node, operation: str) -> str:
        """The calling module's name, if it has no modules in it; otherwise that and the operation's."""
        return self.of_path(innermost(module_stack(node)), operation)

    def of_path(self, path: str, operation: str) -> str:
        """As :meth:`of_function`, for an operation in the module ``path``."""
        if path and path not in self._containers:
            return self.free(path)
        return self.free(f"{path}.{operation}" if path else operation)

    def of_constant(self, name: str) -> str:
        """A name for a parameter or a buffer: its own, unless a layer or an activation has taken the way to it."""
        parents = [name[:i] for i, c in enumerate(name) if c == "."]
        return self.free(name.replace(".", "_") if any(p in self._taken for p in parents) else name)

    def _is_taken(self, name: str) -> bool:
        parents = [name[:i] for i, c in enumerate(name) if c == "."]
        below = f"{name}."
        return name in self._taken or any(p in self._taken for p in parents) or any(
            taken.startswith(below) for taken in self._taken
        )
