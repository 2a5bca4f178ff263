"""Replacing the ReLUs of an ANN by trainable activations, to fine-tune before converting."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable

from torch import fx, nn

from ..ann2snn import graph
from ..errors import ConfigError, ConversionError
from ..neuron.activations import DAQCFS, QCFS, ClipReLU

_RELUS = (nn.ReLU, nn.Hardtanh)  # nn.ReLU6 is a Hardtanh
_OWN = (QCFS, DAQCFS, ClipReLU)


def replace_activations(ann: nn.Module, activation: Callable[..., nn.Module], **kwargs: object) -> nn.Module:
    """
    Put an own activation at each place where ``ann`` calls a ReLU. The network keeps its classes and what they do in
    training mode (auxiliary outputs, say); only modules that call a ReLU as a function or method, or one ReLU module
    several times, are replaced by the ``torch.fx`` graph of their ``forward``. Where that would not give the same
    network, all of it becomes one graph, that of evaluation mode, with a warning if training mode has another.

    :param ann: a network with ReLUs (modules, functions or methods); it is left as it was
    :param activation: what to put in their places: :class:`~sj_parallel_conversion.QCFS`, ``DAQCFS``, ``ClipReLU``,
        or any callable that makes a module. Activations other than ReLU, ReLU6 and their like stay
    :param kwargs: handed to each ``activation(...)``, such as ``levels=4``
    :return: a network with the same parameters and training flags
    :raises ConversionError: if ``ann`` cannot be traced or has no ReLU to replace
    :raises ConfigError: if ``activation`` cannot be called
    """
    if not callable(activation) or isinstance(activation, nn.Module):
        raise ConfigError(f"activation must be a class such as sj_parallel_conversion.QCFS, got {activation!r}")
    traced = _plain(graph.trace(ann))
    _check_replaceable(traced)
    model = _keeping_classes(graph.plain_copy(ann))
    if not _computes_like(model, traced):
        _warn_of_training_graph(ann)
        model = traced
    reference = next(ann.parameters(), None)
    _swap_relus(model, lambda _: _like(reference, activation(**kwargs)))
    training = {name: module.training for name, module in graph.plain_copy(ann).named_modules()}
    for name, module in model.named_modules():
        module.training = training.get(name, ann.training)
    return model


def _plain(model: fx.GraphModule) -> fx.GraphModule:
    graph.remove_inplace(model)
    graph.standardise_activations(model)
    graph.one_module_per_call(model, _RELUS)
    return model


def _check_replaceable(model: fx.GraphModule) -> None:
    activations = {node.target: model.get_submodule(node.target) for node in graph.activation_sites(model)}
    if not any(_is_relu(module) or isinstance(module, _OWN) for module in activations.values()):
        found = ", ".join(f"{name} ({type(module).__name__})" for name, module in activations.items())
        raise ConversionError(f"nothing to replace: the model has no ReLU; its activations are {found}")


def _keeping_classes(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if getattr(module, "inplace", False) is True:
            module.inplace = False  # as what is put in will be; where that matters the graphs will differ
    _swap_relus(model, copy.deepcopy)  # what has several names is no longer one module
    for name, module in reversed(list(model.named_modules())):  # parts before the whole
        own = _own_graph(module)
        if own is None:
            continue
        if not name:
            return own
        graph.replace_module(model, name, own)
    return model


def _own_graph(module: nn.Module) -> fx.GraphModule | None:
    """The graph that stands for ``module``; ``None`` if it can stay, or has not one graph for both modes."""
    own = graph.trace_own(module.eval())
    if own is None or type(module).__module__.startswith("torch.nn"):
        return None
    structure, modules = _structure(own), {node.target for node in _relu_calls(own)}
    if len(_relu_calls(_plain(own))) == len(modules):
        return None
    other = graph.trace_own(module.train())
    return own if other is not None and _structure(other) == structure else None


def _computes_like(model: nn.Module, traced: fx.GraphModule) -> bool:
    """Whether ``model`` does what ``traced`` does, with a ReLU module for each call."""
    try:
        again = graph.trace(model)
    except ConversionError:
        return False
    called = {node.target for node in _relu_calls(again)}
    return len(called) == len(_relu_calls(traced)) and _structure(_plain(again)) == _structure(traced)


def _structure(model: fx.GraphModule) -> list[tuple]:
    """What is computed from what, without names and constants."""
    order = {node: i for i, node in enumerate(model.graph.nodes)}
    return [(node.op, _kind(model, node), [order[n] for n in node.all_input_nodes]) for node in order]


def _kind(model: fx.GraphModule, node: fx.Node) -> object:
    if node.op == "call_module":
        return type(model.get_submodule(node.target))
    return node.target if node.op in ("call_function", "call_method") else None


def _relu_calls(model: fx.GraphModule) -> list[fx.Node]:
    return [n for n in model.graph.nodes if n.op == "call_module" and _is_relu(model.get_submodule(n.target))]


def _is_relu(module: nn.Module) -> bool:
    return isinstance(module, _RELUS) and graph.is_rectifier(module)


def _warn_of_training_graph(ann: nn.Module) -> None:
    evaluation = graph.trace(ann)
    try:
        same = _structure(graph.trace(ann, training=True)) == _structure(evaluation)
    except ConversionError:
        same = False
    if not same:
        warnings.warn(
            f"{type(ann).__name__} computes something else in training mode, and that is left out: the result has the "
            "graph of evaluation mode. To keep both, give each ReLU of the model its own nn.ReLU module",
            stacklevel=3,
        )


def _swap_relus(model: nn.Module, swap: Callable[[nn.Module], nn.Module]) -> None:
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):  # named_children() names a module that is there twice once
            if _is_relu(child):
                setattr(parent, name, swap(child))


def _like(reference: nn.Parameter | None, module: nn.Module) -> nn.Module:
    return module if reference is None else module.to(reference)
