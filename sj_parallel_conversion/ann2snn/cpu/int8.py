"""Integer inference on CPUs: a network whose layers multiply bytes."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.dropout import _DropoutNd

from ...errors import ConfigError
from ...hooks import hand_over_hooks
from ...neuron.spiking_activation import SpikingActivation
from ..graph.folded import ResidualAdd
from ..graph.operations import module_of
from ..graph.passes import replace_module
from ..network.spiking_network import SpikingNetwork
from .byte_flow import level_nodes, pass_bytes
from .byte_pool import let_pool_bytes
from .int8_layers import MAX_LEVEL, Int8Conv2d, Int8Layer, Int8Linear
from .padding import fold_padding
from .prepack import check_machine, prepack_convolutions
from .ranges import byte_codes


def to_int8(snn: SpikingNetwork, dataloader: Iterable[Any] | None = None) -> SpikingNetwork:
    """
    :param snn: a folded network on the CPU; it is left as it was
    :param dataloader: calibration data, as the conversion takes them. With them, convolutions that read the network's
        input or currents of other layers have int8 weights, too. What these read is rounded to 255 steps of the range
        that it has on the data
    :return: a copy in packed execution, for inference only (no gradients, no dropout; a NaN becomes some level), in
        which the convolutions and linear layers that read levels have int8 weights. Others keep theirs;
        :func:`prepack` is applied to them. On CPUs without VNNI weights have 7 bits if levels go beyond 129
    :raises ConfigError: if no layer reads levels, a weight is NaN or infinite, the weights are int8 already, or PyTorch
        has no int8 kernels for this machine
    :raises DataError: if the data cannot be run
    """
    check_machine("to_int8", snn, hasattr(torch.ops.onednn, "qconv2d_pointwise"))
    if not isinstance(snn, SpikingNetwork):
        raise ConfigError("to_int8 takes a network that was converted as a whole: give it one of snn.parts")
    if any(p.is_floating_point() and p.dtype != torch.float32 for p in snn.parameters()):
        raise ConfigError("to_int8 takes a network in float32: call snn.float() first")
    if any(isinstance(module, Int8Layer) for module in snn.modules()):
        raise ConfigError("to_int8: the network has int8 weights already. Give it the network that these were made of")
    snn = copy.deepcopy(snn)
    snn.execution = "packed"
    levels, found = level_nodes(snn.net)
    if not found:
        raise ConfigError(
            f"to_int8: no 2-D convolution and no linear layer reads levels from 0 to {MAX_LEVEL}, and others have no "
            "int8 kernels. If the network has such layers: convert with fold=True (the default), a ReLU network in "
            "float32, and fewer time_steps (8 at most for weighted codes)"
        )
    _remove_dropout(snn.net)
    codes = {} if dataloader is None else byte_codes(snn, dataloader, levels)
    _fold_padding(snn)
    max_level = int(snn.config.node_type.code.max_level(snn.time_steps))
    for name in [node.target for node in found]:
        _replace(snn.net, name, max_level)
    for name, reads in codes.items():
        _replace(snn.net, name, MAX_LEVEL, reads)
    for node in levels:
        let_pool_bytes(module_of(snn.net, node))
    pass_bytes(snn.net)
    prepack_convolutions(snn.net)
    return snn.eval()


def _fold_padding(snn: SpikingNetwork) -> None:
    names = dict(zip(snn.net.graph.nodes, snn.operation_names, strict=True))
    fold_padding(snn.net)
    snn.operation_names = [names[node] for node in snn.net.graph.nodes]


def _remove_dropout(net: fx.GraphModule) -> None:
    """In training mode it would make fractions of levels, which layers that read bytes cut off."""
    for name, module in list(net.named_modules()):
        if isinstance(module, _DropoutNd):
            identity = nn.Identity()
            hand_over_hooks(module, identity)
            replace_module(net, name, identity)


def _replace(net: fx.GraphModule, name: str, max_level: int, reads: Tensor | None = None) -> None:
    """Put an int8 layer in the place of ``name``, and tell who may write over its output, so that hooks are seen."""
    old = net.get_submodule(name)
    if not all(parameter.isfinite().all() for parameter in old.parameters()):
        raise ConfigError(f"to_int8: layer {name!r} has NaN or infinite weights, and integers know none")
    layer = (Int8Conv2d if isinstance(old, nn.Conv2d) else Int8Linear)(old, max_level, reads)
    for module in net.modules():
        if isinstance(module, (SpikingActivation, ResidualAdd)) and module.source == (old,):
            module.source = (layer,)
    replace_module(net, name, layer)
