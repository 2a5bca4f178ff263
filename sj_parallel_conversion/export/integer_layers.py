"""Layers with int8 weights in the operators of ONNX. They have values in an ONNX runtime alone, not in torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..ann2snn.cpu.int8_layers import EIGHT_BITS, SEVEN_BITS, bias_in_steps, quantised


def integer_weight(layer: nn.Conv2d | nn.Linear, bias: Tensor | None, max_level: int) -> tuple[Tensor, Tensor]:
    """
    :param layer: reads levels
    :param bias: what it adds
    :param max_level: the largest level
    :return: int8 weights, and one scale an output channel. Where levels go beyond 129, weights have 7 bits: some
        machines add two products in 16 bits, and cut off what does not fit
    """
    in_16_bits = 2 * max_level * EIGHT_BITS <= torch.iinfo(torch.int16).max
    return quantised(layer.weight.detach(), bias, max_level, EIGHT_BITS if in_16_bits else SEVEN_BITS)


def _symbolic(
    operator: str, inputs: tuple[Any, ...], dtype: torch.dtype, shape: Sequence[int], **attributes: Any
) -> Tensor:
    return torch.onnx.ops.symbolic(operator, inputs, attributes, dtype=dtype, shape=shape)


class _OnBytes(nn.Module):
    """Has the constants of quantised values whose integers stand for themselves."""

    one: Tensor
    zero: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("one", torch.ones(()))
        self.register_buffer("zero", torch.zeros((), dtype=torch.uint8))

    def _dequantised(self, x: Tensor, scale: Tensor, zero_point: Tensor, **axis: int) -> Tensor:
        return _symbolic("DequantizeLinear", (x, scale, zero_point), torch.float32, x.shape, **axis)

    def _quantised(self, x: Tensor) -> Tensor:
        """Rounded to the nearest integer from 0 to 255."""
        return _symbolic("QuantizeLinear", (x, self.one, self.zero), torch.uint8, x.shape)


class RoundToBytes(_OnBytes):
    """Rounds to the nearest integer from 0 to 255."""

    def forward(self, x: Tensor) -> Tensor:
        """:param x: float currents less 1/2. :return: bytes"""
        return self._quantised(x)


class CutBytes(_OnBytes):
    """
    Cuts bytes off at the largest level.

    :param max_level: the largest level
    """

    def __init__(self, max_level: int) -> None:
        super().__init__()
        self.register_buffer("max_level", torch.tensor(max_level, dtype=torch.uint8))

    def forward(self, x: Tensor) -> Tensor:
        """:param x: bytes. :return: levels in bytes"""
        return _symbolic("Clip", (x, self.zero, self.max_level), torch.uint8, x.shape)


class CutToLevels(nn.Module):
    """
    Currents to levels: rounded down, cut off at 0 and at the largest level.

    :param max_level: the largest level
    """

    def __init__(self, max_level: int) -> None:
        super().__init__()
        self.max_level = float(max_level)

    def forward(self, x: Tensor) -> Tensor:
        """:param x: float currents. :return: levels in bytes"""
        return x.clamp(0.0, self.max_level).to(torch.uint8)


class IntegerConv(_OnBytes):
    """
    A convolution of levels whose result is one byte a value: ONNX Runtime makes one ``QLinearConv`` of its operators.

    The byte is the current less 1/2 in steps of ``step``, and ``zero_point`` more. It is cut off at 0 and at 255.

    :param conv: the convolution
    :param max_level: the largest level that it reads
    :param zero_point: the byte that stands for a current of 1/2, ``[C]``
    :param step: how much current one step is, ``[C]``
    """

    weight: Tensor
    scale: Tensor
    bias: Tensor
    weight_zero: Tensor
    bias_zero: Tensor

    def __init__(self, conv: nn.Conv2d, max_level: int, zero_point: Tensor, step: Tensor) -> None:
        super().__init__()
        bias = zero_point * step - 0.5 + (0.0 if conv.bias is None else conv.bias.detach())
        weight, scale = integer_weight(conv, bias, max_level)
        bias = (bias.double() / scale).round().to(torch.int32)
        scale = scale / step
        self.form: tuple[Any, ...] = (conv.stride, conv.padding, conv.dilation, conv.groups)
        for name, value in (("weight", weight), ("scale", scale), ("bias", bias)):
            self.register_buffer(name, value)
        self.register_buffer("weight_zero", torch.zeros(len(scale), dtype=torch.int8))
        self.register_buffer("bias_zero", torch.zeros(len(scale), dtype=torch.int32))

    def forward(self, x: Tensor) -> Tensor:
        """:param x: levels in bytes. :return: currents in bytes"""
        x = self._dequantised(x, self.one, self.zero)
        weight = self._dequantised(self.weight, self.scale, self.weight_zero, axis=0)
        bias = self._dequantised(self.bias, self.scale, self.bias_zero, axis=0)
        return self._quantised(F.conv2d(x, weight, bias, *self.form))


class RoundedConv(_OnBytes):
    """
    A convolution of levels with int8 weights, computed in float32.

    :param conv: the convolution
    :param max_level: the largest level that it reads
    :param less: what is subtracted from currents: 1/2 where they are rounded to the nearest level afterwards
    """

    weight: Tensor
    scale: Tensor
    bias: Tensor
    weight_zero: Tensor

    def __init__(self, conv: nn.Conv2d, max_level: int, less: float) -> None:
        super().__init__()
        bias = conv.weight.new_zeros(conv.out_channels) if conv.bias is None else conv.bias.detach()
        weight, scale = integer_weight(conv, bias, max_level)
        if less or conv.bias is not None:  # 1/2 is a bias, too
            bias = bias_in_steps(bias, scale)
        self.form: tuple[Any, ...] = (conv.stride, conv.padding, conv.dilation, conv.groups)
        for name, value in (("weight", weight), ("scale", scale), ("bias", bias - less)):
            self.register_buffer(name, value)
        self.register_buffer("weight_zero", torch.zeros(len(scale), dtype=torch.int8))

    def forward(self, x: Tensor) -> Tensor:
        """:param x: levels in bytes. :return: float currents"""
        weight = self._dequantised(self.weight, self.scale, self.weight_zero, axis=0)
        return F.conv2d(self._dequantised(x, self.one, self.zero), weight, self.bias, *self.form)


class AddShortcut(_OnBytes):
    """
    ``current + factor * level - 1/2``, of a current and a level.

    :param factor: of the levels, ``[C]``
    :param code: zero point and step of currents in bytes, as those of :class:`IntegerConv`; ``None`` for currents of
        :class:`RoundedConv`
    """

    zero_point: Tensor | None
    step: Tensor | None
    factor: Tensor
    zeros: Tensor

    def __init__(self, factor: Tensor, code: tuple[Tensor, Tensor] | None) -> None:
        super().__init__()
        zero_point, step = code or (None, None)
        self.register_buffer("zero_point", None if zero_point is None else zero_point.to(torch.uint8))
        self.register_buffer("step", None if step is None else step.clone())
        self.register_buffer("factor", factor.clone())
        self.register_buffer("zeros", torch.zeros(len(factor), dtype=torch.uint8))

    def forward(self, x: Tensor, levels: Tensor) -> Tensor:
        """:param x: currents. :param levels: in bytes. :return: float currents less 1/2"""
        if self.step is not None and self.zero_point is not None:
            x = self._dequantised(x, self.step, self.zero_point, axis=1)
        return x + self._dequantised(levels, self.factor, self.zeros, axis=1)


class IntegerLinear(nn.Module):
    """
    A linear layer on levels, with int8 weights.

    :param linear: the layer
    :param max_level: the largest level that it reads
    """

    weight: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, linear: nn.Linear, max_level: int) -> None:
        super().__init__()
        bias = None if linear.bias is None else linear.bias.detach().clone()
        weight, scale = integer_weight(linear, bias, max_level)
        self.register_buffer("weight", weight.t().contiguous())
        self.register_buffer("scale", scale)
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        """:param x: levels in bytes. :return: float currents"""
        shape = (*x.shape[:-1], len(self.scale))
        x = _symbolic("MatMulInteger", (x, self.weight), torch.int32, shape).float() * self.scale
        return x if self.bias is None else x + self.bias
