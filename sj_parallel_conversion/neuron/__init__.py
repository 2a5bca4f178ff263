"""The spiking neurons, a quantiser and a code each, and the activations that they stand for."""

from .activations import DAQCFS, QCFS, ClipReLU, SpikingIdentity
from .base import SpikingNode
from .parallel import ParallelConversionNode
from .serial import SerialNode
from .spikepack import SpikePackNode
from .spiking_activation import SpikingActivation
from .tsa import TSANode

__all__ = [
    "DAQCFS",
    "QCFS",
    "ClipReLU",
    "ParallelConversionNode",
    "SerialNode",
    "SpikePackNode",
    "SpikingActivation",
    "SpikingIdentity",
    "SpikingNode",
    "TSANode",
]
