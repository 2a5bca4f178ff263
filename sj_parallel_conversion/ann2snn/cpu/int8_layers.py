"""
Convolutions and linear layers with int8 weights, on bytes.

Weights get 8 bits and one scale an output channel. The bytes that a layer reads are levels of neurons, which are exact,
or currents and images, rounded to 255 steps (see :mod:`.ranges`). The kernels are those that PyTorch's own compiler
uses for quantised networks (``torch.ops.onednn``), on plain uint8 and int8 tensors.

What follows a sum is a part of the kernel, too. It makes levels of a current: it adds the bias less a half, rounds and
clips, and writes bytes. So a neuron costs nothing, and no currents go through memory. See :mod:`.byte_flow`.

CPUs without VNNI instructions add two products of bytes in 16 bits, and what does not fit is cut off. There weights get
7 bits if levels are so large that this could happen.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ...errors import DataError
from ...functional import clip_to_bytes
from ...hooks import hand_over_hooks, has_hooks
from ...neuron.spiking_activation import SpikingActivation

MAX_LEVEL = 255
EIGHT_BITS, SEVEN_BITS = 127, 64  # the largest weights
_LARGEST_SUM = torch.iinfo(torch.int32).max  # kernels go on at the other end where a sum is larger
_LEAST_SCALE = 1e-30  # of a channel whose weights are all 0: float32 has room for its bias in such steps


class ByteCode(NamedTuple):
    """
    What a byte stands for: ``(byte - zero_point) * scale``.

    :param scale: of one step
    :param zero_point: the byte that stands for 0
    """

    scale: float
    zero_point: int


class Result(NamedTuple):
    """
    What a kernel gives, in the order of its arguments.

    :param scale: of one step, where it gives bytes
    :param zero_point: the byte that stands for 0
    :param dtype: float32 for currents, uint8 for bytes
    :param function: what follows the sum
    :param scalars: the function's arguments
    :param algorithm: the function's form
    """

    scale: float
    zero_point: int
    dtype: torch.dtype
    function: str = "none"
    scalars: tuple[float, ...] = ()
    algorithm: str = ""


class ByteFlow:
    """
    Who passes bytes to whom: one object, which all int8 layers of a network hold. If each held its own readers, these
    theirs, and so on, ``copy.deepcopy`` would call itself as often as the network is deep, which Python does not allow.

    :param site: any neuron of the network, which knows whether the execution is packed
    """

    def __init__(self, site: SpikingActivation) -> None:
        self.site = site
        self.neurons: dict[Int8Layer, SpikingActivation] = {}  # whose levels a layer may emit
        self.readers: dict[Int8Layer, tuple[Int8Layer, ...]] = {}  # of currents that none but int8 layers read
        self.sources: dict[Int8Layer, Int8Layer] = {}  # the layer that emits currents in bytes for another

    def connect(self, source: Int8Layer, readers: tuple[Int8Layer, ...]) -> None:
        """
        :param source: may emit its currents in bytes
        :param readers: all that reads them, all of one code
        """
        self.readers[source] = readers
        self.sources |= dict.fromkeys(readers, source)


LEVELS = ByteCode(1.0, 0)
_CURRENTS = Result(*LEVELS, torch.float32)


@functools.cache
def adds_in_32_bits() -> bool:
    """
    Whether the machine's kernels add products of bytes without cutting off. It is tried, because the CPU's flags do not
    say which kernels oneDNN takes (ONEDNN_MAX_CPU_ISA forbids some).
    """
    levels = torch.full((1, 2), MAX_LEVEL, dtype=torch.uint8, device="cpu")
    weight = torch.full((1, 2), EIGHT_BITS, dtype=torch.int8, device="cpu")
    scale, zero_point = torch.ones(1, device="cpu"), torch.zeros(1, dtype=torch.int32, device="cpu")
    found = _product(levels, LEVELS, _pack_linear(weight, levels), scale, zero_point, None, result=_CURRENTS)
    return found.item() == 2 * MAX_LEVEL * EIGHT_BITS


def largest_weight(max_level: int) -> int:
    """The largest weight that the machine's kernels multiply by levels up to ``max_level`` and add exactly."""
    in_16_bits = 2 * max_level * EIGHT_BITS <= torch.iinfo(torch.int16).max
    return EIGHT_BITS if in_16_bits or adds_in_32_bits() else SEVEN_BITS


def quantised(weight: Tensor, bias: Tensor | None, max_level: int, largest: int) -> tuple[Tensor, Tensor]:
    """
    :param weight: of a layer, ``[C, ...]``
    :param bias: ``[C]``
    :param max_level: the largest level that the layer reads
    :param largest: the largest int8 weight
    :return: int8 weights, and one scale an output channel. Where a sum of all products, or the bias in steps of the
        scale, had no room in 32 bits, steps are larger
    """
    rows = weight.flatten(1).abs()
    scale = rows.amax(1) / largest
    room = 0.999_999 * _LARGEST_SUM - max_level * rows.shape[1] / 2  # rounding adds half a step to each weight at most
    scale = scale.maximum((rows.sum(1, dtype=torch.float64) * (max_level / room)).to(scale))
    if bias is not None:
        scale = scale.maximum(bias.abs() / (_LARGEST_SUM // 2))
    scale = scale.clamp_min(_LEAST_SCALE)
    return (weight / scale.view(-1, *[1] * (weight.dim() - 1))).round().to(torch.int8), scale


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


def _product(levels: Tensor, code: ByteCode, *weights: Tensor | None, result: Result) -> Tensor:
    return torch.ops.onednn.qlinear_pointwise(levels, *code, *weights, *result)


def _any_has_hooks(*modules: nn.Module) -> bool:
    return any(map(has_hooks, modules))


class Int8Layer(nn.Module):
    """
    :param layer: the layer that it stands for
    :param max_level: the largest byte that it reads
    :param reads: ``[scale, zero_point]`` of the bytes that it makes of floats; ``None``: it reads levels
    """

    flow: ByteFlow | None = None

    weight: Tensor
    scale: Tensor
    zero_point: Tensor
    bias: Tensor | None
    reads: Tensor | None
    _packed: tuple[Tensor, Tensor, Tensor] | None

    def __init__(self, layer: nn.Conv2d | nn.Linear, max_level: int = MAX_LEVEL, reads: Tensor | None = None) -> None:
        super().__init__()
        hand_over_hooks(layer, self)
        self.max_level = max_level
        bias = None if layer.bias is None else layer.bias.detach().float().clone()
        weight, scale = quantised(layer.weight.detach().float(), bias, max_level, largest_weight(max_level))
        self.register_buffer("weight", weight.contiguous())
        self.register_buffer("scale", scale)
        self.register_buffer("zero_point", torch.zeros(len(weight), dtype=torch.int32))
        self.register_buffer("bias", bias)
        self.register_buffer("reads", reads)
        self._packed = None

    @property
    def code(self) -> ByteCode:
        """What the bytes that it reads stand for."""
        if self.reads is None:
            return LEVELS
        scale, zero_point = self.reads.tolist()
        return ByteCode(scale, int(zero_point))

    def _result(self) -> Result:
        """What the kernels give: currents, or bytes if those behind take them and nobody listens."""
        flow = self.flow
        if flow is None:
            return _CURRENTS
        neuron, readers = flow.neurons.get(self), flow.readers.get(self)
        if neuron is not None and neuron.packed and not _any_has_hooks(self, neuron, neuron.node):
            return Result(*LEVELS, torch.uint8, "hardtanh", (0.0, float(neuron.node.code.max_level(neuron.node.T))))
        if readers is not None and flow.site.packed and not _any_has_hooks(self, *readers):
            return Result(*readers[0].code, torch.uint8)
        return _CURRENTS

    def _bytes(self, x: Tensor, code: ByteCode, memory_format: torch.memory_format = torch.preserve_format) -> Tensor:
        """:raises DataError: if ``x`` is not on the CPU, because kernels do not ask, or is bytes of unknown meaning"""
        if x.device.type != "cpu":
            raise DataError(f"int8 weights are for CPUs, got an input on {x.device}")
        if self.reads is None or (x.dtype == torch.uint8 and self.flow and self in self.flow.sources):
            return x.to(torch.uint8, memory_format=memory_format)
        if not x.is_floating_point():
            raise DataError(f"a layer that reads floats was given {x.dtype}")
        steps = torch.add(code.zero_point + 0.5, x, alpha=1 / code.scale)
        return clip_to_bytes(steps, MAX_LEVEL, overwrite=True).contiguous(memory_format=memory_format)

    def _weights(self, levels: Tensor, code: ByteCode, result: Result) -> tuple[Tensor | None, ...]:
        """What the kernels take: the packed weight, its scales and zero points, and the bias."""
        if self._packed is None:
            weight, scale = self.weight, self.scale
            if weight.abs().amax() > largest_weight(self.max_level):  # it comes from another machine
                weight, scale = (weight / 2).round().to(torch.int8), scale * 2
            # a kernel rounds to the nearest level, and a neuron to the one below
            halves = torch.full_like(scale, -0.5) if self.bias is None else self.bias - 0.5
            self._packed = self._pack(weight, scale, code, levels), scale, halves
        packed, scale, halves = self._packed
        return packed, scale, self.zero_point, halves if result.function == "hardtanh" else self.bias

    def _pack(self, weight: Tensor, scale: Tensor, code: ByteCode, levels: Tensor) -> Tensor:
        """The weight as the kernel wants it."""
        raise NotImplementedError

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
    A convolution of levels with int8 weights. Arguments as in :class:`Int8Layer`.
    """

    def __init__(self, conv: nn.Conv2d, max_level: int = MAX_LEVEL, reads: Tensor | None = None) -> None:
        super().__init__(conv, max_level, reads)
        self.form: tuple[Any, ...] = (list(conv.stride), list(conv.padding), list(conv.dilation), conv.groups)
        if self.bias is not None and reads is None:
            self.bias = bias_in_steps(self.bias, self.scale)

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """
        :param x: ``[N, C, H, W]``, levels from 0 to 255, or floats that it makes bytes of
        :return: currents in float32, or bytes; channels last
        """
        code, result = self.code, self._result()
        levels = self._bytes(x, code, torch.channels_last)
        weights = self._weights(levels, code, result)
        return torch.ops.onednn.qconv2d_pointwise(levels, *code, *weights, *self.form, *result)

    def _pack(self, weight: Tensor, scale: Tensor, code: ByteCode, levels: Tensor) -> Tensor:
        return torch.ops.onednn.qconv_prepack(weight, scale, *code, *self.form, list(levels.shape))


class Int8Linear(Int8Layer):
    """
    A linear layer on levels with int8 weights. Arguments as in :class:`Int8Layer`.
    """

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """:param x: levels ``[N, ..., C]``, 0..255. :return: currents, float32; or levels, uint8"""
        code, result = self.code, self._result()
        levels = self._bytes(x, code)
        if levels.numel() == 0:  # of which the kernel forgets the shape
            return torch.zeros(*levels.shape[:-1], len(self.weight), dtype=result.dtype)
        return _product(levels, code, *self._weights(levels, code, result), result=result)

    def _pack(self, weight: Tensor, scale: Tensor, code: ByteCode, levels: Tensor) -> Tensor:
        return _pack_linear(weight, levels)
