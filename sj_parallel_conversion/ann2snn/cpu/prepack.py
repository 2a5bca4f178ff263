"""
Weights in the layout of the machine's kernels, packed once instead of at each call.

oneDNN, which computes PyTorch's convolutions on CPUs, reads weights in blocks that depend on the machine. PyTorch makes
them anew at each call, which for small images is a quarter of the time of a network. The kernels here are those that
PyTorch's own compiler uses for frozen networks (``torch.ops.mkldnn``).
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import ConfigError
from ...hooks import records_gradient
from ...user_warnings import warn
from ..network.parts import PartlySpikingNetwork
from ..network.spiking_network import SpikingNetwork


def prepack(snn: SpikingNetwork | PartlySpikingNetwork) -> SpikingNetwork | PartlySpikingNetwork:
    """
    :param snn: a float32 network on the CPU; it is left as it was
    :return: a copy for inference whose 2-D convolutions keep their weights packed as oneDNN's kernels read them, beside
        the weights themselves, while no gradient is recorded. It runs in every execution and computes the same up to
        float rounding. An optimiser and ``load_state_dict`` may change its weights; a change behind PyTorch's back
        (``weight.data.mul_(2)``) goes unnoticed: make it before the network is prepacked. If there is no such
        convolution, it is a plain copy, and a warning says so
    :raises ConfigError: if ``snn`` is no converted network on the CPU, or PyTorch has no such kernels for this machine
    """
    check_machine("prepack", snn, hasattr(torch.ops.mkldnn, "_convolution_pointwise"))
    snn = copy.deepcopy(snn)
    parts = list(snn.parts.values()) if isinstance(snn, PartlySpikingNetwork) else [snn]
    if not sum(prepack_convolutions(part.net) for part in parts):
        warn(
            "prepack: nothing is gained, because there is no 2-D convolution in float32, with zero padding given in "
            "numbers, that is not packed yet"
        )
    return snn.eval()


def check_machine(function: str, snn: nn.Module, has_kernels: bool) -> None:
    """
    :param function: name of the function that the user called
    :param snn: what it was given
    :param has_kernels: whether PyTorch was built with the kernels
    :raises ConfigError: if it cannot run here
    """
    if not isinstance(snn, (SpikingNetwork, PartlySpikingNetwork)):
        raise ConfigError(f"{function} takes a converted network, got {type(snn).__name__}")
    if not (torch.backends.mkldnn.is_available() and has_kernels):
        raise ConfigError(f"{function}: this build of PyTorch has no oneDNN kernels for it")
    if any(parameter.is_cuda for parameter in snn.parameters()):
        raise ConfigError(f"{function} is for CPUs: move the network there first, snn.cpu()")


def prepack_convolutions(net: nn.Module) -> int:
    """
    :param net: changed in place
    :return: how many convolutions are prepacked now
    """
    found = [module for module in net.modules() if type(module) is nn.Conv2d and _has_kernel(module)]
    for module in found:
        # A new class and not a new module: hooks stay, and so does what other modules know of it.
        module.__class__ = PrepackedConv2d
    return len(found)


def _has_kernel(conv: nn.Conv2d) -> bool:
    return conv.weight.dtype == torch.float32 and has_zero_padding(conv)


def has_zero_padding(conv: nn.Conv2d) -> bool:
    """Whether a convolution is padded with zeros, and how many there are is given in numbers, as kernels want it."""
    return conv.padding_mode == "zeros" and isinstance(conv.padding, tuple)


def is_plain_convolution(module: nn.Module | None) -> bool:
    """Whether it is torch's own 2-D convolution, prepacked or not, which kernels for int8 weights may replace."""
    return isinstance(module, nn.Conv2d) and type(module) in (nn.Conv2d, PrepackedConv2d) and has_zero_padding(module)


class PrepackedConv2d(nn.Conv2d):
    """
    A convolution that packs its weight at the first call without a gradient. It packs again when the weight changed
    or had a gradient recorded in between. Optimisers that run as one kernel do not count a weight's versions.
    """

    packs = True  # False: as nn.Conv2d, for what counts torch's own operations
    _packed: tuple[tuple[Any, ...], Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """:param x: ``[N, C, H, W]``. :return: as nn.Conv2d"""
        if torch.compiler.is_compiling():
            return super().forward(x)
        if records_gradient(self.weight):
            self._packed = None
        if not (self.packs and self._kernel_takes(x)):
            return super().forward(x)
        form = (list(self.padding), list(self.stride), list(self.dilation), self.groups)
        weight = self._packed_weight(form, list(x.shape))
        return torch.ops.mkldnn._convolution_pointwise(x, weight, self.bias, *form, "none", [], "")

    def _kernel_takes(self, x: Tensor) -> bool:
        tensors = (x, self.weight) if self.bias is None else (x, self.weight, self.bias)
        plain = all(t.dtype == torch.float32 and t.device.type == "cpu" for t in tensors)
        fits = x.dim() == 4 and x.numel() > 0 and x.shape[1] == self.in_channels
        # tensors of the inference mode do not count their versions
        return plain and fits and not records_gradient(*tensors) and not self.weight.is_inference()

    def _packed_weight(self, form: tuple[Any, ...], shape: list[int]) -> Tensor:
        # The storage, too, so that its address is not used again while it is looked for.
        storage, state = self.weight.untyped_storage(), (self.weight.data_ptr(), self.weight._version)
        if self._packed is None or self._packed[0][1] != state:
            packed = torch.ops.mkldnn._reorder_convolution_weight(self.weight.detach(), *form, shape)
            self._packed = (storage, state), packed
        return self._packed[1]

    def _apply(self, *args: object, **kwargs: object) -> PrepackedConv2d:
        self._packed = None
        return super()._apply(*args, **kwargs)

    def __getstate__(self) -> dict[str, object]:
        # What the kernels made of the weight depends on the machine, and cannot be pickled.
        return {**self.__dict__, "_packed": None}
