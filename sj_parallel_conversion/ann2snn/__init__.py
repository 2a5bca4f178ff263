"""From a trained ANN to a spiking network: options, graph passes, thresholds, calibration, the converted network."""

from .config import ConversionConfig
from .converter import ParallelConverter
from .int8 import to_int8
from .network import SpikingNetwork
from .recipe import ParallelConversionRecipe
from .replace import replace_activations

__all__ = [
    "ConversionConfig",
    "ParallelConversionRecipe",
    "ParallelConverter",
    "SpikingNetwork",
    "replace_activations",
    "to_int8",
]
