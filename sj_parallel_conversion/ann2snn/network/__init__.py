"""The converted network, and how it runs."""

from .parts import PartlySpikingNetwork
from .spiking_network import SpikingNetwork
from .submodules import convertible_submodules
from .windows import run_windows

__all__ = ["PartlySpikingNetwork", "SpikingNetwork", "convertible_submodules", "run_windows"]
