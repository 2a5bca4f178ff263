"""Passes that bring a traced network into one plain form."""

from __future__ import annotations

import copy
import operator

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval
from torch.nn.utils.parametrize import is_parametrized

_OUT_OF_PLACE = {
    **{getattr(operator, f"i{name}"): getattr(operator, name) for name in ("add", "sub", "mul", "truediv", "floordiv")},
    **{
        getattr(space, name): getattr(space, name[:-1])
        for space in (torch, F)
        for name in dir(space)
        if name.endswith("_") and not name.startswith("_") and hasattr(space, name[:-1])
    },
}
_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def replace_module(model: fx.GraphModule, target: str, module: nn.Module) -> None:
    """Put ``module`` where ``target`` is."""
    parent, _, name = target.rpartition(".")
    setattr(model.get_submodule(parent), name, module)


def free_name(model: nn.Module, wanted: str) -> str:
    """``wanted``, or ``wanted_1``, ``wanted_2``, ... if there is something by that name."""
    name, k = wanted, 0
    while _has_attribute(model, name):
        k += 1
        name = f"{wanted}_{k}"
    return name


def _has_attribute(model: nn.Module, path: str) -> bool:
    for part in path.split("."):
        if not hasattr(model, part):
            return False
        model = getattr(model, part)
    return True


def first_input(node: fx.Node) -> object:
    """The value that ``node`` works on, given by position or as ``input=``."""
    return node.args[0] if node.args else node.kwargs["input"]


def remove_inplace(model: fx.GraphModule) -> None:
    """
    Turn in-place operations into their plain forms. What came after an in-place operation and read its input has
    seen the changed value, so it is made to read the result.
    """
    order = {node: i for i, node in enumerate(model.graph.nodes)}
    for node in model.graph.nodes:
        if not _make_plain(model, node) or not node.all_input_nodes:
            continue
        changed = first_input(node)
        for user in [u for u in changed.users if order[u] > order[node]]:
            user.replace_input_with(changed, node)
    model.recompile()


def _make_plain(model: fx.GraphModule, node: fx.Node) -> bool:
    """Whether ``node`` worked in place; if so it no longer does."""
    if node.op == "call_module":
        module = model.get_submodule(node.target)
        if getattr(module, "inplace", False) is True:
            module.inplace = False
        elif not getattr(module, "_was_inplace", False):
            return False
        module._was_inplace = True  # a module that is called twice changes its input at both calls
        return True
    if node.op == "call_method" and node.target.endswith("_") and not node.target.startswith("__"):
        if not hasattr(Tensor, node.target[:-1]):
            return False
        node.target = node.target[:-1]
        return True
    if node.op == "call_function":
        if node.kwargs.get("inplace") is True:
            node.kwargs = {**node.kwargs, "inplace": False}
            return True
        if node.target in _OUT_OF_PLACE:
            node.target = _OUT_OF_PLACE[node.target]
            return True
    return False


def one_module_per_call(model: fx.GraphModule, kind: type[nn.Module] | tuple[type[nn.Module], ...] = nn.Module) -> None:
    """
    Give each call of a module of this ``kind`` an own copy of it. A ReLU that serves three layers becomes three
    neurons, and a weight that is used twice can be fused and calibrated for each use.
    """
    seen: set[str] = set()
    for node in model.graph.nodes:
        if node.op != "call_module" or not isinstance(model.get_submodule(node.target), kind):
            continue
        if node.target in seen:
            name = free_name(model, node.target)
            model.add_submodule(name, copy.deepcopy(model.get_submodule(node.target)))
            node.target = name
        seen.add(node.target)
    model.recompile()


def fuse_batchnorms(model: fx.GraphModule) -> None:
    """
    Fold each BatchNorm into the convolution or linear layer that feeds it, and nothing else. Needs
    :func:`one_module_per_call`, and ``node.meta["shape"]`` to tell the channels of a linear layer from its tokens.
    """
    for node in list(model.graph.nodes):
        if node.op != "call_module" or not isinstance(model.get_submodule(node.target), _NORMS):
            continue
        norm, source = model.get_submodule(node.target), node.args[0]
        if norm.running_mean is None or source.op != "call_module" or len(source.users) > 1:
            continue
        layer = model.get_submodule(source.target)
        if is_parametrized(layer):
            continue
        # torch scales the wrong axis of a transposed convolution with groups
        if isinstance(layer, _CONVS) or (isinstance(layer, _TRANSPOSED) and layer.groups == 1):
            fused = fuse_conv_bn_eval(layer, norm, transpose=isinstance(layer, _TRANSPOSED))
        elif isinstance(layer, nn.Linear) and len(source.meta["shape"]) == 2:
            fused = fuse_linear_bn_eval(layer, norm)
        else:
            continue
        replace_module(model, source.target, fused)
        node.replace_all_uses_with(source)
        model.graph.erase_node(node)
    model.delete_all_unused_submodules()
    model.recompile()
