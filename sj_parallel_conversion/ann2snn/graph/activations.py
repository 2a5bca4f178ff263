"""Activations: one module at each call site, whatever way the model spells them."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import torch
from torch import fx, nn
from torch.nn import functional as F
from torch.nn.modules import activation as nn_activation

from ...activation import DAQCFS, QCFS, ClipReLU, SpikingIdentity
from ...errors import ConversionError
from .passes import first_input, free_name

# Activations that a neuron with a clipped, non-negative output can stand for.
RELUS: tuple[type[nn.Module], ...] = (nn.ReLU, nn.Hardtanh)  # nn.ReLU6 is a Hardtanh
SUPPORTED: tuple[type[nn.Module], ...] = (nn.ReLU, nn.ReLU6, QCFS, DAQCFS, ClipReLU, SpikingIdentity)
# In torch's activation file, but they mix values of several neurons, or do nothing to their input's sign.
_NOT_SCALAR = ("Softmax", "Softmax2d", "LogSoftmax", "Softmin", "MultiheadAttention", "Module", "GLU")
# Modules of torch that hide activations inside; no neuron could be put there.
_OPAQUE = (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer, nn.Transformer, nn.RNNBase, nn.RNNCellBase)
_SCALAR_ACTIVATIONS = tuple(
    cls
    for name, cls in inspect.getmembers(nn_activation, inspect.isclass)
    if issubclass(cls, nn.Module) and name not in _NOT_SCALAR
)


def _relu(*args: object, **kwargs: object) -> nn.Module:
    return nn.ReLU()


def _relu6(*args: object, **kwargs: object) -> nn.Module:
    return nn.ReLU6()


def _hardtanh(input: object, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> nn.Module:
    return nn.Hardtanh(min_val, max_val)


def _clamp(input: object, min: float | None = None, max: float | None = None) -> nn.Module | None:
    if min == 0 and max is None:
        return nn.ReLU()
    return nn.Hardtanh(min, max) if isinstance(min, (int, float)) and isinstance(max, (int, float)) else None


def _dropout(input: object, p: float = 0.5, training: bool = True, inplace: bool = False) -> nn.Module | None:
    # Traced in evaluation mode: as a module it wakes up again when the network is trained.
    return None if training else nn.Dropout(p)


# How functions and tensor methods spell modules: the module that does the same, or None if there is none.
_SPELLINGS: dict[object, Callable[..., nn.Module | None]] = {
    **dict.fromkeys((F.relu, torch.relu, "relu"), _relu),
    F.relu6: _relu6,
    F.hardtanh: _hardtanh,
    F.dropout: _dropout,
    **dict.fromkeys((torch.clamp, torch.clip, torch.clamp_min, "clamp", "clip", "clamp_min"), _clamp),
}
_FUNCTION_NAMES = {cls.__name__.lower() for cls in _SCALAR_ACTIVATIONS} | {"clamp", "clip", "clampmin", "clampmax"}


def standardise_activations(model: fx.GraphModule) -> None:
    """Turn activations (and dropouts) that are functions or methods into modules at their call sites."""
    for node in list(model.graph.nodes):
        if node.op not in ("call_function", "call_method") or node.target not in _SPELLINGS:
            continue
        module = _SPELLINGS[node.target](*node.args, **node.kwargs)
        if module is None:
            continue
        name = free_name(model, _site_name(node))
        model.add_submodule(name, module.eval())
        node.op, node.target, node.args, node.kwargs = "call_module", name, (first_input(node),), {}
    model.recompile()


def activation_sites(model: fx.GraphModule) -> list[fx.Node]:
    """
    :param model: a graph after :func:`standardise_activations`
    :return: the nodes of the graph that a spiking neuron will replace, in order
    :raises ConversionError: if there is none, or there are activations that no neuron can stand for; the message
        lists all of them
    """
    unsupported = [f"{_owner(node)} ({what})" for node in model.graph.nodes if (what := _unsupported(model, node))]
    if unsupported:
        raise ConversionError(
            "these activations cannot be converted: " + ", ".join(unsupported) + ". "
            "Replace them by ReLU, ReLU6 or sj_parallel_conversion.QCFS and fine-tune"
        )
    sites = [node for node in model.graph.nodes if is_site(model, node)]
    if not sites:
        raise ConversionError(
            "nothing to convert: the model has no activation that a spiking neuron can replace "
            "(ReLU or QCFS, as a module, function or method)"
        )
    return sites


def is_site(model: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a neuron can stand for ``node``."""
    return node.op == "call_module" and _convertible(model.get_submodule(node.target))


def _convertible(module: nn.Module) -> bool:
    return isinstance(module, SUPPORTED) or (isinstance(module, nn.Hardtanh) and module.min_val == 0)


def _unsupported(model: fx.GraphModule, node: fx.Node) -> str | None:
    if node.op == "call_module":
        module = model.get_submodule(node.target)
        hidden = any(isinstance(m, _OPAQUE) for m in module.modules())
        refused = hidden or (isinstance(module, _SCALAR_ACTIVATIONS) and not _convertible(module))
        return type(module).__name__ if refused else None
    name = node.target if node.op == "call_method" else getattr(node.target, "__name__", "")
    return name if node.op in ("call_function", "call_method") and name.replace("_", "") in _FUNCTION_NAMES else None


def _owner(node: fx.Node) -> str:
    return node.target if node.op == "call_module" else _site_name(node)


def _site_name(node: fx.Node) -> str:
    """The module that a functional call stands in, and the function's name: ``layer1.0.relu``."""
    stack = list(node.meta.get("nn_module_stack", ()))
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", node.name)
    return f"{stack[-1]}.{name}" if stack and stack[-1] else name
