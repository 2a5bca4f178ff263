"""What is traced: a plain copy of the user's model, and what kinds of model there cannot be one of."""

from __future__ import annotations

import copy
import inspect

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize, prune
from torch.nn.utils.spectral_norm import SpectralNorm, remove_spectral_norm
from torch.nn.utils.weight_norm import WeightNorm, remove_weight_norm

from ...compat import MemoryModule, MultiStepModule
from ...errors import ConversionError

_WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel)
_NAMED = 3  # a message names so many layers


def plain_copy(model: nn.Module) -> nn.Module:
    """
    :param model: any module; it is left as it was
    :return: a copy that shares nothing with it, without wrappers (``nn.DataParallel``, ``DistributedDataParallel``,
        ``torch.compile``), at the top or inside
    :raises ConversionError: if the model cannot be copied, spikes already, or has parts that cannot be looked into
    """
    _check_kind(model)
    model = _unwrapped(model)
    held = (value for module in model.modules() for value in vars(module).values())
    # deepcopy refuses results of computations, such as the weights of pruning and of the old weight_norm
    copied = {id(value): value.detach().clone() for value in held if isinstance(value, Tensor) and not value.is_leaf}
    try:
        root = copy.deepcopy(model, copied)
    except Exception as error:
        raise ConversionError(
            f"{type(model).__name__} cannot be copied ({error}). If it holds results of a forward pass, detach or "
            "delete them first"
        ) from error
    for parent in list(root.modules()):
        for name, child in list(parent.named_children()):
            if _unwrapped(child) is not child:
                setattr(parent, name, _unwrapped(child))
    return root


def check_single_input(model: nn.Module) -> None:
    """
    :param model: any module
    :raises ConversionError: if it is none, or its ``forward`` needs something else than one positional input
    """
    _check_kind(model)
    model = _unwrapped(model)
    parameters = inspect.signature(model.forward).parameters.values()
    positional = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    required = [p.name for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if not positional or required not in ([], positional[:1]):
        needs = ", ".join(required) if required else "*args"
        raise ConversionError(
            f"{type(model).__name__}.forward needs {needs}, but a network with one positional input tensor can be "
            "converted; optional arguments keep their defaults. Convert the part that takes one tensor, or wrap the "
            "model in a module whose forward(x) fills in the rest. Of a batch (x, y) only x is used"
        )


def bake_weights(model: nn.Module) -> None:
    """
    Make parameters of weights that are computed at each call (weight and spectral norm, pruning and every other
    parametrisation), in place: a pass may then change them.
    """
    for module in list(model.modules()):
        if parametrize.is_parametrized(module):
            # not remove_parametrizations: it changes the class, which the user's module shares
            weights = {name: getattr(module, name).detach().clone() for name in module.parametrizations}
            module.__class__ = parametrize.type_before_parametrizations(module)
            del module.parametrizations
            for name, weight in weights.items():
                module.register_parameter(name, nn.Parameter(weight))
        for hook in list(module._forward_pre_hooks.values()):
            if isinstance(hook, WeightNorm):
                remove_weight_norm(module, hook.name)
            elif isinstance(hook, SpectralNorm):
                remove_spectral_norm(module, hook.name)
            elif isinstance(hook, prune.BasePruningMethod):
                prune.remove(module, hook._tensor_name)


def _unwrapped(model: nn.Module) -> nn.Module:
    while True:
        inner = model.module if isinstance(model, _WRAPPERS) else getattr(model, "_orig_mod", None)  # torch.compile
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def _check_kind(model: nn.Module) -> None:
    if not isinstance(model, nn.Module):
        raise ConversionError(f"the model must be a torch.nn.Module, got {type(model).__name__}")
    for kinds, what, instead in (
        ((MemoryModule, MultiStepModule), "spikes already or keeps a state over time", "the ANN that it was made from"),
        (torch.jit.ScriptModule, "is compiled by TorchScript", "the Python module that it was made from"),
    ):
        found = [f"{name or 'model'} ({type(m).__name__})" for name, m in model.named_modules() if isinstance(m, kinds)]
        if found:
            more = ", ..." if len(found) > _NAMED else ""
            raise ConversionError(
                f"{type(model).__name__} {what}: {', '.join(found[:_NAMED])}{more}. Convert {instead}"
            )
    lazy = [name for name, parameter in model.named_parameters() if is_lazy(parameter)]
    if lazy:
        raise ConversionError(f"{lazy[0]} of {type(model).__name__} has no shape yet; run the model on one batch first")
    if any(tensor.is_meta for tensor in [*model.parameters(), *model.buffers()]):
        raise ConversionError(f"{type(model).__name__} has parameters without values (device 'meta'); load them first")
