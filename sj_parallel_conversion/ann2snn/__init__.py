"""From a trained ANN to a spiking network: options, graph passes, thresholds, calibration, the converted network."""

from .config import ConversionConfig
from .converter import ParallelConverter
from .graph import register_activation, register_leaf
from .network import SpikingNetwork
from .partly import PartlySpikingNetwork
from .recipe import ParallelConversionRecipe
from .replace import replace_activations

__all__ = [
    "ConversionConfig",
    "ParallelConversionRecipe",
    "ParallelConverter",
    "PartlySpikingNetwork",
    "SpikingNetwork",
    "register_activation",
    "register_leaf",
    "replace_activations",
]
