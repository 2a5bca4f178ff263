"""
Integer inference on CPUs: levels are small integers, so that layers between neurons may multiply bytes.

Weights get 8 bits and one scale an output channel; levels are exact. The kernels are those that PyTorch's own compiler
uses for quantised networks (``torch.ops.onednn``), on plain uint8 and int8 tensors.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, fx, nn

from ...errors import ConfigError, DataError
from ...neuron import SpikingNode
from ...neuron.spiking_activation import SpikingActivation
from ..graph.folded import ResidualAdd
from ..graph.passes import replace_module
from ..graph.units import keeps_integers
from ..network.spiking_network import SpikingNetwork
from .prepack import PrepackedConv2d, check_machine, prepack_convolutions

_MAX_LEVEL = 255


def to_int8(snn: SpikingNetwork) -> SpikingNetwork:
    """
    :param snn: a folded network on the CPU; it is left as it was
    :return: a copy in packed execution, for inference only (no gradients; a NaN becomes some level), in which the
        convolutions and linear layers that read levels have int8 weights. Others, such as the first one, keep theirs;
        :func:`prepack` is applied to them
    :raises ConfigError: if no layer reads levels, or PyTorch has no int8 kernels for this machine
    """
    check_machine("to_int8", snn, hasattr(torch.ops.onednn, "qconv2d_pointwise"))
    if not isinstance(snn, SpikingNetwork):
        raise ConfigError("to_int8 takes a network that was converted as a whole: give it one of snn.parts")
    if any(p.is_floating_point() and p.dtype != torch.float32 for p in snn.parameters()):
        raise ConfigError("to_int8 takes a network in float32: call snn.float() first")
    snn = copy.deepcopy(snn)
    snn.execution = "packed"
    found = list(_layers_that_read_levels(snn.net))
    if not found:
        raise ConfigError(
            f"to_int8: no layer reads levels from 0 to {_MAX_LEVEL}. Convert with fold=True (the default), a ReLU "
            "network in float32, and fewer time_steps (8 at most for weighted codes)"
        )
    for name in found:
        _replace(snn.net, name, _as_int8(snn.net.get_submodule(name)))
    prepack_convolutions(snn.net)
    return snn.eval()


def _layers_that_read_levels(net: fx.GraphModule) -> list[str]:
    integers: set[fx.Node] = set()
    layers = []
    for node in net.graph.nodes:
        module = net.get_submodule(node.target) if node.op == "call_module" else None
        read = [n for n in node.all_input_nodes if n in integers]
        if isinstance(module, SpikingActivation):
            if _emits_bytes(module.node):
                integers.add(node)
        elif read and type(module) in (nn.Conv2d, PrepackedConv2d, nn.Linear):
            if type(module) is nn.Linear or (module.padding_mode == "zeros" and isinstance(module.padding, tuple)):
                layers.append(node.target)
        elif read and len(read) == sum("shape" in n.meta for n in node.all_input_nodes) and keeps_integers(net, node):
            integers.add(node)
    return layers


def _emits_bytes(neuron: SpikingNode) -> bool:
    return neuron.folded_output and neuron.min_level == 0 and neuron.code.max_level(neuron.T) <= _MAX_LEVEL


def _replace(net: fx.GraphModule, name: str, layer: nn.Module) -> None:
    """Put ``layer`` in the place of ``name``, and tell who may write over its output, so that hooks on it are seen."""
    old = net.get_submodule(name)
    for module in net.modules():
        if isinstance(module, (SpikingActivation, ResidualAdd)) and module.source == (old,):
            module.source = (layer,)
    replace_module(net, name, layer)


def _as_int8(layer: nn.Conv2d | nn.Linear) -> Int8Conv2d | Int8Linear:
    return (Int8Conv2d if isinstance(layer, nn.Conv2d) else Int8Linear)(layer)


def _bytes(levels: Tensor, memory_format: torch.memory_format = torch.preserve_format) -> Tensor:
    """:raises DataError: if ``levels`` are not on the CPU; the kernels do not ask"""
    if levels.device.type != "cpu":
        raise DataError(f"int8 weights are for CPUs, got an input on {levels.device}")
    return levels.to(torch.uint8, memory_format=memory_format)


class _Int8Layer(nn.Module):
    def __init__(self, layer: nn.Conv2d | nn.Linear) -> None:
        super().__init__()
        # hooks of the layer, of every kind, go on listening
        self.__dict__.update({name: hooks for name, hooks in vars(layer).items() if name.startswith("_forward_")})
        weight = layer.weight.detach().float()
        scale = weight.flatten(1).abs().amax(1).clamp_min(torch.finfo(torch.float32).tiny) / 127
        rows = scale.view(-1, *[1] * (weight.dim() - 1))
        self.register_buffer("weight", (weight / rows).round().to(torch.int8).contiguous())
        self.register_buffer("scale", scale)
        self.register_buffer("zero_point", torch.zeros(len(weight), dtype=torch.int32))
        self.register_buffer("bias", None if layer.bias is None else layer.bias.detach().float().clone())
        self._packed: Tensor | None = None

    def __getstate__(self) -> dict[str, object]:
        # What the kernels made of the weight depends on the machine, and cannot be pickled.
        return {**self.__dict__, "_packed": None}

    def _load_from_state_dict(self, *args: object) -> None:
        super()._load_from_state_dict(*args)
        self._packed = None

    def extra_repr(self) -> str:
        return f"weight={list(self.weight.shape)}"


class Int8Conv2d(_Int8Layer):
    """
    A convolution of levels with int8 weights.

    :param conv: the convolution that it stands for
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__(conv)
        self.form = (list(conv.stride), list(conv.padding), list(conv.dilation), conv.groups)

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """:param x: levels ``[N, C, H, W]``, 0..255. :return: currents, float32, channels last"""
        levels = _bytes(x, torch.channels_last)
        if self._packed is None:
            prepack = torch.ops.onednn.qconv_prepack
            self._packed = prepack(self.weight, self.scale, 1.0, 0, *self.form, list(x.shape))
        weights = (self._packed, self.scale, self.zero_point, self.bias)
        return torch.ops.onednn.qconv2d_pointwise(
            levels, 1.0, 0, *weights, *self.form, 1.0, 0, torch.float32, "none", [], ""
        )


class Int8Linear(_Int8Layer):
    """
    A linear layer on levels with int8 weights.

    :param linear: the layer that it stands for
    """

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """:param x: levels ``[N, ..., C]``, 0..255. :return: currents, float32"""
        levels = _bytes(x)
        if self._packed is None:
            self._packed = torch.ops.onednn.qlinear_prepack(self.weight, list(x.shape))
        weights = (self._packed, self.scale, self.zero_point, self.bias)
        return torch.ops.onednn.qlinear_pointwise(levels, 1.0, 0, *weights, 1.0, 0, torch.float32, "none", [], "")
