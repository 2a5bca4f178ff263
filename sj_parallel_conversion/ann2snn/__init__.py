"""From a trained ANN to a spiking network: options, graph passes, thresholds, calibration, the converted network."""

from .config import ConversionConfig
from .converter import ParallelConverter
from .graph import register_activation, register_leaf
from .int8 import to_int8
from .network import SpikingNetwork
from .partly import PartlySpikingNetwork
from .prepack import prepack
from .recipe import ParallelConversionRecipe
from .replace import replace_activations
from .sites import SpikingActivation
from .submodules import convertible_submodules

__all__ = [
    "ConversionConfig",
    "ParallelConversionRecipe",
    "ParallelConverter",
    "PartlySpikingNetwork",
    "SpikingActivation",
    "SpikingNetwork",
    "convertible_submodules",
    "prepack",
    "register_activation",
    "register_leaf",
    "replace_activations",
    "to_int8",
]
