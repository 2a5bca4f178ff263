"""From a trained ANN to a spiking network: options, graph passes, thresholds, calibration, the converted network."""

from .config import ConversionConfig
from .converter import ParallelConverter
from .cpu import prepack, to_int8
from .graph import register_activation, register_leaf
from .network import PartlySpikingNetwork, SpikingNetwork, convertible_submodules
from .recipe import ParallelConversionRecipe

__all__ = [
    "ConversionConfig",
    "ParallelConversionRecipe",
    "ParallelConverter",
    "PartlySpikingNetwork",
    "SpikingNetwork",
    "convertible_submodules",
    "prepack",
    "register_activation",
    "register_leaf",
    "to_int8",
]
