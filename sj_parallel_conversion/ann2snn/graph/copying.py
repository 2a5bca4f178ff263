"""What is captured: a plain copy of the user's model, and what kinds of model there cannot be one of."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from ...compat import MemoryModule, MultiStepModule
from ...errors import ConversionError
from ...torch_compat import forget_compilation
from .side_effects import held_tensors

_WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel)
_NAMED = 3  # a message names so many layers


def plain_copy(model: nn.Module) -> nn.Module:
    """
    :param model: any module; it is left as it was
    :return: a copy that shares nothing with it, without wrappers (``nn.DataParallel``, ``DistributedDataParallel``,
        ``torch.compile``), at the top or inside, and without backward hooks
    :raises ConversionError: if the model cannot be copied, spikes already, or has parts that cannot be looked into
    """
    _check_kind(model)
    model = _unwrapped(model)
    # deepcopy refuses results of computations, such as the weights of pruning and of the old weight_norm
    copied = {id(value): value.detach().clone() for value in held_tensors(model) if not value.is_leaf}
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
    for module in root.modules():
        forget_compilation(module)
        # they belong to the training of the user's model, and a calibration may ask for gradients as well
        module._backward_hooks.clear()
        module._backward_pre_hooks.clear()
    return root


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
