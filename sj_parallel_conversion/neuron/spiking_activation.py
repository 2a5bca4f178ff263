"""A neuron in the place of an activation."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..compat import StepModeContainer
from ..errors import ConfigError
from ..hooks import has_hooks, may_overwrite, records_gradient
from ..parameters import check_flag
from .base import SpikingNode


class SpikingActivation(StepModeContainer):
    """
    A neuron in the place of an activation: decoded values ``[N, ...]`` go in and come out, the spike train passes
    between. A StepModeContainer, because SpikingJelly's ``set_step_mode`` leaves what is inside one alone.

    To train a spiking network from scratch, put it where a ReLU would be. With ``packed=True`` nothing in forward or
    backward depends on T (gradients are straight-through, as in SpikePack, ICCV 2025); ``packed = False`` then gives
    the same values with real trains.

    :param node: the neuron
    :param packed: whether decoded levels pass and no trains
    :raises ConfigError: if ``node`` is no neuron of this package, or ``packed`` no bool
    """

    # Tuples, because these are no children:
    levels_from: tuple[nn.Module, ...] = ()  # the layer whose bytes are levels already
    byte_readers: tuple[nn.Module, ...] = ()  # layers that read the levels in bytes, where all that reads them can

    def __init__(self, node: SpikingNode, packed: bool = False) -> None:
        super().__init__(False)
        if not isinstance(node, SpikingNode):
            raise ConfigError(f"SpikingActivation: node must be a neuron such as TSANode(8), got {node!r}")
        self.node = node
        self.packed = packed
        self.source: tuple[nn.Module, ...] = ()  # see may_overwrite; a tuple, because it is no child

    @property
    def packed(self) -> bool:
        """Whether decoded levels pass and no trains."""
        return self._packed

    @packed.setter
    def packed(self, value: bool) -> None:
        """:raises ConfigError: if the value is no bool"""
        check_flag(type(self).__name__, "packed", value)
        self._packed = value

    def forward(self, x: Tensor) -> Tensor:
        """:param x: mean input ``[N, ...]``. :return: the mean output ``[N, ...]``"""
        if self.levels_from and self.packed and x.dtype == torch.uint8:
            return x
        values = (x, *self.node.parameters())
        if self.packed:
            packed = self.node.level_bytes if self.byte_readers else self.node.decoded
            return packed(x, may_overwrite(self.source, *values))
        # A call of the module, in floats, only where someone listens: a monitor, or autograd.
        emit = self.node if records_gradient(*values) or has_hooks(self.node) else self.node.spikes
        return self.node.decode(emit(self.node.constant(x)), x.dtype)
