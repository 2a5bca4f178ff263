"""Passes on a captured network, and what they share."""

from __future__ import annotations

from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from .operations import is_kept

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


def fuse_batchnorms(model: fx.GraphModule) -> None:
    """
    Fold each BatchNorm into the convolution or linear layer that feeds it, and nothing else. Needs
    ``node.meta["shape"]`` to tell the channels of a linear layer from its tokens.
    """
    for node in list(model.graph.nodes):
        if node.op != "call_module" or type(model.get_submodule(node.target)) not in _NORMS:
            continue
        norm, source = model.get_submodule(node.target), node.args[0]
        if norm.running_mean is None or source.op != "call_module" or len(source.users) > 1:
            continue
        if is_kept(node) or is_kept(source):
            continue
        layer = model.get_submodule(source.target)
        # torch scales the wrong axis of a transposed convolution with groups
        if type(layer) in _CONVS or (type(layer) in _TRANSPOSED and layer.groups == 1):
            fused = fuse_conv_bn_eval(layer, norm, transpose=isinstance(layer, _TRANSPOSED))
        elif type(layer) is nn.Linear and len(source.meta["shape"]) == 2:
            fused = fuse_linear_bn_eval(layer, norm)
        else:
            continue
        replace_module(model, source.target, fused)
        node.replace_all_uses_with(source)
        model.graph.erase_node(node)
    model.delete_all_unused_submodules()
    model.recompile()
