"""Replacing the ReLUs of an ANN by trainable activations, to fine-tune before converting."""

from __future__ import annotations

from collections.abc import Callable

from torch import fx, nn

from ..activation import DAQCFS, QCFS, ClipReLU
from ..errors import ConfigError, ConversionError
from . import graph

_RELUS = (nn.ReLU, nn.Hardtanh)  # nn.ReLU6 is a Hardtanh
_OWN = (QCFS, DAQCFS, ClipReLU)


def replace_activations(ann: nn.Module, activation: Callable[..., nn.Module], **kwargs: object) -> fx.GraphModule:
    """
    :param ann: a network with ReLUs (modules, functions or methods); it is left as it was
    :param activation: what to put in their places: :class:`~sj_parallel_conversion.QCFS`, ``DAQCFS``, ``ClipReLU``,
        or any callable that makes a module. Activations other than ReLU, ReLU6 and their like stay
    :param kwargs: handed to each ``activation(...)``, such as ``levels=4``
    :return: a network with the same parameters and training flags, and an own activation at each call site
    :raises ConversionError: if ``ann`` cannot be traced or has no ReLU to replace
    :raises ConfigError: if ``activation`` cannot be called
    """
    if not callable(activation) or isinstance(activation, nn.Module):
        raise ConfigError(f"activation must be a class such as sj_parallel_conversion.QCFS, got {activation!r}")
    model = graph.trace(ann)
    graph.remove_inplace(model)
    graph.standardise_activations(model)
    graph.one_module_per_call(model, _RELUS)
    reference = next(ann.parameters(), None)
    sites = graph.activation_sites(model)
    if not any(_is_relu(model, site) or isinstance(model.get_submodule(site.target), _OWN) for site in sites):
        found = ", ".join(f"{site.target} ({type(model.get_submodule(site.target)).__name__})" for site in sites)
        raise ConversionError(f"nothing to replace: the model has no ReLU; its activations are {found}")
    for site in sites:
        if not _is_relu(model, site):
            continue
        module = activation(**kwargs)
        graph.replace_module(model, site.target, module if reference is None else module.to(reference))
    training = {name: module.training for name, module in ann.named_modules()}
    for name, module in model.named_modules():
        module.training = training.get(name, ann.training)
    return model


def _is_relu(model: fx.GraphModule, site: fx.Node) -> bool:
    module = model.get_submodule(site.target)
    return isinstance(module, _RELUS) and graph.is_rectifier(module)
