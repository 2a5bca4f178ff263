"""The spiking neurons: a quantiser and a code each, nothing else."""

from .base import SpikingNode
from .parallel import ParallelConversionNode
from .serial import SerialNode
from .spikepack import SpikePackNode
from .tsa import TSANode

__all__ = ["ParallelConversionNode", "SerialNode", "SpikePackNode", "SpikingNode", "TSANode"]
