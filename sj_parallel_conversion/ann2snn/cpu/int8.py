"""
Integer inference on CPUs: levels are small integers, so that layers between neurons may multiply bytes.

Weights get 8 bits and one scale an output channel; levels are exact. The kernels are those that PyTorch's own compiler
uses for quantised networks (``torch.ops.onednn``), on plain uint8 and int8 tensors.

Where int8 layers alone read the levels of a neuron, the kernel of the layer in front makes them: it adds the bias less
a half, rounds and clips, and writes bytes. So the neuron costs nothing, and no currents go through memory.

CPUs without VNNI instructions add two products of bytes in 16 bits, and what does not fit is cut off. There weights get
7 bits if levels are so large that this could happen.
"""

from __future__ import annotations

import copy
import functools
from typing import Any

import torch
from torch import Tensor, fx, nn

from ...errors import ConfigError, DataError
from ...hooks import has_hooks
from ...neuron import SpikingNode
from ...neuron.spiking_activation import SpikingActivation
from ..graph.folded import ResidualAdd
from ..graph.passes import replace_module
from ..graph.units import keeps_integers
from ..network.spiking_network import SpikingNetwork
from .prepack import PrepackedConv2d, check_machine, prepack_convolutions

_MAX_LEVEL = 255
_EIGHT_BITS, _SEVEN_BITS = 127, 64  # the largest weights
_CURRENTS: tuple[Any, ...] = (torch.float32, "none", [], "")  # what kernels give: their dtype, and what follows the sum


def to_int8(snn: SpikingNetwork) -> SpikingNetwork:
    """
    :param snn: a folded network on the CPU; it is left as it was
    :return: a copy in packed execution, for inference only (no gradients; a NaN becomes some level), in which the
        convolutions and linear layers that read levels have int8 weights. Others, such as the first one, keep theirs;
        :func:`prepack` is applied to them. On CPUs without VNNI weights have 7 bits if levels go beyond 129
    :raises ConfigError: if no layer reads levels, or PyTorch has no int8 kernels for this machine
    """
    check_machine("to_int8", snn, hasattr(torch.ops.onednn, "qconv2d_pointwise"))
    if not isinstance(snn, SpikingNetwork):
        raise ConfigError("to_int8 takes a network that was converted as a whole: give it one of snn.parts")
    if any(p.is_floating_point() and p.dtype != torch.float32 for p in snn.parameters()):
        raise ConfigError("to_int8 takes a network in float32: call snn.float() first")
    snn = copy.deepcopy(snn)
    snn.execution = "packed"
    found = [node.target for node in level_nodes(snn.net)[1]]
    if not found:
        raise ConfigError(
            f"to_int8: no 2-D convolution and no linear layer reads levels from 0 to {_MAX_LEVEL}, and others have no "
            "int8 kernels. If the network has such layers: convert with fold=True (the default), a ReLU network in "
            "float32, and fewer time_steps (8 at most for weighted codes)"
        )
    max_level = int(snn.config.node_type.code.max_level(snn.time_steps))
    for name in found:
        _replace(snn.net, name, _as_int8(snn.net.get_submodule(name), max_level))
    emit_levels(snn.net)
    prepack_convolutions(snn.net)
    return snn.eval()


def emit_levels(net: fx.GraphModule) -> None:
    """
    Tell int8 layers of the neurons behind them whose levels int8 layers alone read, and these neurons of them.

    :param net: a graph with int8 layers
    """

    def is_int8(node: fx.Node) -> bool:
        return node.op == "call_module" and isinstance(net.get_submodule(node.target), Int8Layer)

    for node in filter(is_int8, net.graph.nodes):
        (site, *others) = node.users
        neuron = net.get_submodule(site.target) if site.op == "call_module" else None
        if others or not isinstance(neuron, SpikingActivation) or not all(map(is_int8, site.users)):
            continue
        if neuron.node.folded_input and _emits_bytes(neuron.node):
            layer = net.get_submodule(node.target)
            layer.neuron, neuron.levels_from = (neuron,), (layer,)


def level_nodes(net: fx.GraphModule) -> tuple[set[fx.Node], list[fx.Node]]:
    """
    :param net: a converted graph
    :return: the nodes whose values are levels from 0 to 255, and the layers that read them and may have int8 weights
    """
    levels: set[fx.Node] = set()
    layers = []
    for node in net.graph.nodes:
        module = net.get_submodule(node.target) if node.op == "call_module" else None
        read = [n for n in node.all_input_nodes if n in levels]
        if isinstance(module, SpikingActivation):
            if _emits_bytes(module.node):
                levels.add(node)
        elif read and type(module) in (nn.Conv2d, PrepackedConv2d, nn.Linear):
            if type(module) is nn.Linear or (module.padding_mode == "zeros" and isinstance(module.padding, tuple)):
                layers.append(node)
        elif read and len(read) == sum("shape" in n.meta for n in node.all_input_nodes) and keeps_integers(net, node):
            levels.add(node)
    return levels, layers


def _emits_bytes(neuron: SpikingNode) -> bool:
    return neuron.folded_output and neuron.min_level == 0 and neuron.code.max_level(neuron.T) <= _MAX_LEVEL


def _replace(net: fx.GraphModule, name: str, layer: nn.Module) -> None:
    """Put ``layer`` in the place of ``name``, and tell who may write over its output, so that hooks on it are seen."""
    old = net.get_submodule(name)
    for module in net.modules():
        if isinstance(module, (SpikingActivation, ResidualAdd)) and module.source == (old,):
            module.source = (layer,)
    replace_module(net, name, layer)


def _as_int8(layer: nn.Conv2d | nn.Linear, max_level: int) -> Int8Conv2d | Int8Linear:
    return (Int8Conv2d if isinstance(layer, nn.Conv2d) else Int8Linear)(layer, max_level)


@functools.cache
def adds_in_32_bits() -> bool:
    """
    Whether the machine's kernels add products of bytes without cutting off. It is tried, because the CPU's flags do not
    say which kernels oneDNN takes (ONEDNN_MAX_CPU_ISA forbids some).
    """
    levels = torch.full((1, 2), _MAX_LEVEL, dtype=torch.uint8, device="cpu")
    weight = torch.full((1, 2), _EIGHT_BITS, dtype=torch.int8, device="cpu")
    scale, zero_point = torch.ones(1, device="cpu"), torch.zeros(1, dtype=torch.int32, device="cpu")
    found = _product(levels, _pack_linear(weight, levels), scale, zero_point, None)
    return found.item() == 2 * _MAX_LEVEL * _EIGHT_BITS


def largest_weight(max_level: int) -> int:
    """The largest weight that the machine's kernels multiply by levels up to ``max_level`` and add exactly."""
    in_16_bits = 2 * max_level * _EIGHT_BITS <= torch.iinfo(torch.int16).max
    return _EIGHT_BITS if in_16_bits or adds_in_32_bits() else _SEVEN_BITS


def bias_in_steps(bias: Tensor, scale: Tensor) -> Tensor:
    """
    :param bias: of a convolution, ``[C]``
    :param scale: of its int8 weights, ``[C]``
    :return: the bias less 1/2 rounded to steps of the scale, as kernels that emit bytes add it. A network with few
        levels gives another class to some images if one level in a thousand differs, so that every int8 form rounds
        alike
    """
    return ((bias - 0.5) / scale).round() * scale + 0.5


def _pack_linear(weight: Tensor, levels: Tensor) -> Tensor:
    return torch.ops.onednn.qlinear_prepack(weight, list(levels.shape))


def _product(levels: Tensor, *weights: Tensor | None, result: tuple[Any, ...] = _CURRENTS) -> Tensor:
    return torch.ops.onednn.qlinear_pointwise(levels, 1.0, 0, *weights, 1.0, 0, *result)


def _bytes(levels: Tensor, memory_format: torch.memory_format = torch.preserve_format) -> Tensor:
    """:raises DataError: if ``levels`` are not on the CPU; the kernels do not ask"""
    if levels.device.type != "cpu":
        raise DataError(f"int8 weights are for CPUs, got an input on {levels.device}")
    return levels.to(torch.uint8, memory_format=memory_format)


class Int8Layer(nn.Module):
    """
    :param layer: the layer that it stands for
    :param max_level: the largest level that it reads
    """

    neuron: tuple[SpikingActivation, ...] = ()  # whose levels it may emit; a tuple, because it is no child

    def __init__(self, layer: nn.Conv2d | nn.Linear, max_level: int = _MAX_LEVEL) -> None:
        super().__init__()
        # hooks of the layer, of every kind, go on listening
        self.__dict__.update({name: hooks for name, hooks in vars(layer).items() if name.startswith("_forward_")})
        self.max_level = max_level
        weight = layer.weight.detach().float()
        largest = weight.flatten(1).abs().amax(1).clamp_min(torch.finfo(torch.float32).tiny)
        scale = largest / largest_weight(max_level)
        rows = scale.view(-1, *[1] * (weight.dim() - 1))
        self.register_buffer("weight", (weight / rows).round().to(torch.int8).contiguous())
        self.register_buffer("scale", scale)
        self.register_buffer("zero_point", torch.zeros(len(weight), dtype=torch.int32))
        self.register_buffer("bias", None if layer.bias is None else layer.bias.detach().float().clone())
        self._packed: tuple[Tensor, Tensor, Tensor] | None = None

    def _result(self) -> tuple[Any, ...]:
        """What the kernels give: currents, or levels if the neuron behind takes them and nobody listens."""
        for site in self.neuron:
            if site.packed and not any(map(has_hooks, (self, site, site.node))):
                return torch.uint8, "hardtanh", [0.0, float(site.node.code.max_level(site.node.T))], ""
        return _CURRENTS

    def _weights(self, levels: Tensor, result: tuple[Any, ...]) -> tuple[Tensor | None, ...]:
        """What the kernels take: the packed weight, its scales and zero points, and the bias."""
        if self._packed is None:
            weight, scale = self.weight, self.scale
            if weight.abs().amax() > largest_weight(self.max_level):  # it comes from another machine
                weight, scale = (weight / 2).round().to(torch.int8), scale * 2
            # a kernel rounds to the nearest level, and a neuron to the one below
            halves = torch.full_like(scale, -0.5) if self.bias is None else self.bias - 0.5
            self._packed = self._pack(weight, scale, levels), scale, halves
        packed, scale, halves = self._packed
        return packed, scale, self.zero_point, self.bias if result is _CURRENTS else halves

    def __getstate__(self) -> dict[str, object]:
        # What the kernels made of the weight depends on the machine, and cannot be pickled.
        return {**self.__dict__, "_packed": None}

    def _load_from_state_dict(self, *args: object) -> None:
        super()._load_from_state_dict(*args)
        self._packed = None

    def _apply(self, *args: object, **kwargs: object) -> Int8Layer:  # to_empty() among others
        self._packed = None
        return super()._apply(*args, **kwargs)

    def extra_repr(self) -> str:
        """What ``print`` shows of it."""
        return f"weight={list(self.weight.shape)}"


class Int8Conv2d(Int8Layer):
    """
    A convolution of levels with int8 weights.

    :param conv: the convolution that it stands for
    :param max_level: the largest level that it reads
    """

    def __init__(self, conv: nn.Conv2d, max_level: int = _MAX_LEVEL) -> None:
        super().__init__(conv, max_level)
        self.form = (list(conv.stride), list(conv.padding), list(conv.dilation), conv.groups)
        if self.bias is not None:
            self.bias = bias_in_steps(self.bias, self.scale)

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """:param x: levels ``[N, C, H, W]``, 0..255. :return: currents, float32, channels last; or levels, uint8"""
        levels, result = _bytes(x, torch.channels_last), self._result()
        return torch.ops.onednn.qconv2d_pointwise(
            levels, 1.0, 0, *self._weights(levels, result), *self.form, 1.0, 0, *result
        )

    def _pack(self, weight: Tensor, scale: Tensor, levels: Tensor) -> Tensor:
        return torch.ops.onednn.qconv_prepack(weight, scale, 1.0, 0, *self.form, list(levels.shape))


class Int8Linear(Int8Layer):
    """
    A linear layer on levels with int8 weights. Arguments as in :class:`Int8Conv2d`.
    """

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """:param x: levels ``[N, ..., C]``, 0..255. :return: currents, float32; or levels, uint8"""
        levels, result = _bytes(x), self._result()
        return _product(levels, *self._weights(levels, result), result=result)

    def _pack(self, weight: Tensor, scale: Tensor, levels: Tensor) -> Tensor:
        return _pack_linear(weight, levels)
