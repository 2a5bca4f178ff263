"""
Weights in the layout of the machine's kernels, packed once instead of at each call.

oneDNN, which computes PyTorch's convolutions on CPUs, reads weights in blocks that depend on the machine. PyTorch makes
them anew at each call, which for small images is a quarter of the time of a network. The kernels here are those that
PyTorch's own compiler uses for frozen networks (``torch.ops.mkldnn``).
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from .network import SpikingNetwork
from .partly import PartlySpikingNetwork


def prepack(snn: SpikingNetwork | PartlySpikingNetwork) -> SpikingNetwork | PartlySpikingNetwork:
    """
    :param snn: a float32 network on the CPU; it is left as it was
    :return: a copy for inference whose 2-D convolutions keep their weights packed as oneDNN's kernels read them, beside
        the weights themselves. It runs in every execution and computes the same up to float rounding. An optimiser and
        ``load_state_dict`` may change its weights; a change behind PyTorch's back (``weight.data.mul_(2)``) goes
        unnoticed: make it before the network is prepacked
    :raises ConfigError: if there is no such convolution, or PyTorch has no such kernels for this machine
    """
    check_machine("prepack", snn, hasattr(torch.ops.mkldnn, "_convolution_pointwise"))
    snn = copy.deepcopy(snn)
    parts = snn.parts.values() if isinstance(snn, PartlySpikingNetwork) else [snn]
    if not sum(prepack_convolutions(part.net) for part in parts):
        raise ConfigError("prepack: the network has no 2-D convolution in float32, so there is nothing to be gained")
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
    return conv.weight.dtype == torch.float32 and conv.padding_mode == "zeros" and isinstance(conv.padding, tuple)


class PrepackedConv2d(nn.Conv2d):
    """A convolution that packs its weight at the first call without autograd, and again when the weight has changed."""

    _packed: tuple[object, Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """:param x: ``[N, C, H, W]``. :return: as nn.Conv2d"""
        plain = torch.is_grad_enabled() or torch.compiler.is_compiling() or x.is_cuda or x.dtype != torch.float32
        if plain or x.dim() != 4 or x.numel() == 0 or self.weight.dtype != torch.float32:
            return super().forward(x)
        form = (list(self.padding), list(self.stride), list(self.dilation), self.groups)
        weight = self._packed_weight(form, list(x.shape))
        return torch.ops.mkldnn._convolution_pointwise(x, weight, self.bias, *form, "none", [], "")

    def _packed_weight(self, form: tuple, shape: list[int]) -> Tensor:
        weight = self.weight
        # Inference tensors do not count their versions.
        state = (weight.data_ptr(), None if weight.is_inference() else weight._version)
        if self._packed is None or self._packed[0] != state:
            self._packed = state, torch.ops.mkldnn._reorder_convolution_weight(weight.detach(), *form, shape)
        return self._packed[1]

    def __getstate__(self) -> dict[str, object]:
        # What the kernels made of the weight depends on the machine, and cannot be pickled.
        return {**self.__dict__, "_packed": None}
