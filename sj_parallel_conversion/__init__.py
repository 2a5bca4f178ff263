"""
Parallel conversion for SpikingJelly: trained ANNs into spiking networks that keep the accuracy in few time-steps.

Importing this package registers it with SpikingJelly; :func:`unregister` takes that back, :func:`register` puts it in
again.
"""

from .analysis import Inspection, inspect
from .ann2snn import (
    ConversionConfig,
    ParallelConversionRecipe,
    ParallelConverter,
    PartlySpikingNetwork,
    SpikingNetwork,
    convertible_submodules,
    prepack,
    register_activation,
    register_leaf,
    to_int8,
)
from .errors import ConfigError, ConversionError, DataError, RegistrationError, SJPCError, UnsupportedReleaseError
from .neuron import (
    DAQCFS,
    QCFS,
    ClipReLU,
    ParallelConversionNode,
    SpikePackNode,
    SpikingActivation,
    SpikingNode,
    TSANode,
)
from .registration import register, unregister
from .training import replace_activations

__version__ = "0.1.0"

__all__ = [
    "DAQCFS",
    "QCFS",
    "ClipReLU",
    "ConfigError",
    "ConversionConfig",
    "ConversionError",
    "DataError",
    "Inspection",
    "ParallelConversionNode",
    "ParallelConversionRecipe",
    "ParallelConverter",
    "PartlySpikingNetwork",
    "RegistrationError",
    "SJPCError",
    "SpikePackNode",
    "SpikingActivation",
    "SpikingNetwork",
    "SpikingNode",
    "TSANode",
    "UnsupportedReleaseError",
    "convertible_submodules",
    "inspect",
    "prepack",
    "register",
    "register_activation",
    "register_leaf",
    "replace_activations",
    "to_int8",
    "unregister",
]

register()
