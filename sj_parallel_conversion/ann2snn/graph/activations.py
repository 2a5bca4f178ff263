"""Activations: one module at each call site, whatever way the model spells them."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import fx, nn
from torch.nn import functional as F

from ...errors import ConversionError
from .passes import first_input, free_name
from .registry import LEAVES, OWN_FUNCTIONS, SPELLINGS, FunctionActivation, bounds

# Modules of torch that hide activations inside; no neuron could be put there.
_OPAQUE = (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer, nn.Transformer, nn.RNNBase, nn.RNNCellBase)


def _clamp(min: float | None = None, max: float | None = None) -> nn.Module | None:
    lower, upper = -math.inf if min is None else min, math.inf if max is None else max
    if min == 0 and max is None:
        return nn.ReLU()
    return nn.Hardtanh(lower, upper) if lower <= 0 <= upper and lower < upper else None


def _dropout(p: float = 0.5, training: bool = True) -> nn.Module | None:
    # Traced in evaluation mode: as a module it wakes up again when the network is trained.
    return None if training else nn.Dropout(p)


# Spellings with arguments other than the module's: how to make it (None: nothing to replace), and their names.
_MAKERS: dict[object, tuple[Callable[..., nn.Module | None], tuple[str, ...]]] = {
    F.dropout: (_dropout, ("p", "training")),
    **dict.fromkeys((torch.clamp, torch.clip, "clamp", "clip"), (_clamp, ("min", "max"))),
    **dict.fromkeys((torch.clamp_min, "clamp_min"), (_clamp, ("min",))),
    **dict.fromkeys((torch.clamp_max, "clamp_max"), (_clamp, ("max",))),
}


def standardise_activations(model: fx.GraphModule) -> None:
    """Turn activations (and dropouts) that are functions or methods into modules at their call sites."""
    for node in list(model.graph.nodes):
        if node.op == "call_module" and not node.args and list(node.kwargs) == ["input"]:
            node.args, node.kwargs = (node.kwargs["input"],), {}
        module = _as_module(model, node) if node.op in ("call_function", "call_method") else None
        if module is None:
            continue
        name = free_name(model, _site_name(node))
        model.add_submodule(name, module.eval())
        node.op, node.target, node.args, node.kwargs = "call_module", name, (first_input(node),), {}
    model.recompile()


def _as_module(model: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    """The module that does what the call ``node`` does, if it is an activation with constant arguments."""
    named = {name: value for name, value in node.kwargs.items() if name not in ("input", "inplace")}
    constants = not any(isinstance(value, fx.Node) for value in (*node.args[1:], *named.values()))
    if node.target in OWN_FUNCTIONS:
        function = getattr(torch, node.target) if isinstance(node.target, str) else node.target
        known = OWN_FUNCTIONS[node.target]
        return FunctionActivation(function, known, *node.args[1:], **named) if constants else None
    if node.target in _MAKERS:
        make, names = _MAKERS[node.target]
    elif node.target in SPELLINGS:
        make, names = SPELLINGS[node.target].module, SPELLINGS[node.target].arguments
    else:
        return None
    arguments = dict(zip(names, node.args[1:], strict=False)) | {n: v for n, v in named.items() if n in names}
    if make is nn.PReLU:
        return _prelu(model, arguments["weight"])
    if make is nn.RReLU and arguments.pop("training", False):
        return None
    return make(**arguments) if constants else None


def _prelu(model: fx.GraphModule, weight: object) -> nn.Module | None:
    if not isinstance(weight, fx.Node) or weight.op != "get_attr":
        return None
    value = model
    for part in weight.target.split("."):
        value = getattr(value, part)
    module = nn.PReLU(value.numel())
    module.weight = nn.Parameter(value.detach().clone().flatten())
    return module


def activation_sites(model: fx.GraphModule) -> list[fx.Node]:
    """
    :param model: a graph after :func:`standardise_activations`
    :return: the nodes of the graph that a spiking neuron will replace, in order
    :raises ConversionError: if there is none, or there are modules that hide activations; the message lists all of
        them
    """
    opaque = [
        f"{node.target} ({type(module).__name__})"
        for node in model.graph.nodes
        if node.op == "call_module" and _hides_activations(module := model.get_submodule(node.target))
    ]
    if opaque:
        raise ConversionError(
            "these modules hide activations, where no neuron can be put: " + ", ".join(opaque) + ". "
            "Write them out in modules that torch.fx can trace, or keep them analogue with "
            "sj_parallel_conversion.register_leaf(type)"
        )
    changing = _depend_on_input(model)
    sites = [node for node in model.graph.nodes if node in changing and is_site(model, node)]
    if not sites:
        raise ConversionError(
            "nothing to convert: the model has no activation that a spiking neuron can replace (ReLU, GELU, SiLU, "
            "QCFS, ... as a module, function or method; sj_parallel_conversion.register_activation adds your own)"
        )
    return sites


def is_site(model: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a neuron can stand for ``node``."""
    if node.op != "call_module" or len(node.args) != 1 or node.kwargs or not isinstance(node.args[0], fx.Node):
        return False
    return bounds(model.get_submodule(node.target)) is not None and node.meta.get("is_floating_point", True)


def _depend_on_input(model: fx.GraphModule) -> set[fx.Node]:
    """All nodes but those that compute the same for every input, such as a bias from a table of positions."""
    changing: set[fx.Node] = set()
    for node in model.graph.nodes:
        if node.op == "placeholder" or any(source in changing for source in node.all_input_nodes):
            changing.add(node)
    return changing


def _hides_activations(module: nn.Module) -> bool:
    return not isinstance(module, tuple(LEAVES)) and any(isinstance(m, _OPAQUE) for m in module.modules())


def _site_name(node: fx.Node) -> str:
    """The module that a functional call stands in, and the function's name: ``layer1.0.relu``."""
    stack = list(node.meta.get("nn_module_stack", ()))
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", node.name)
    return f"{stack[-1]}.{name}" if stack and stack[-1] else name
