"""
Parallel conversion for SpikingJelly: trained ANNs into spiking networks that keep the accuracy in few time-steps.

Importing this package registers it with SpikingJelly; :func:`unregister` takes that back, :func:`register` puts it in
again.
"""

from .analysis import (
    Evaluation,
    Inspection,
    LayerErrors,
    OperationCount,
    Report,
    count_operations,
    evaluate,
    inspect,
    layer_errors,
    report,
    synop_rules,
    verify,
)
from .ann2snn.config import ConversionConfig
from .ann2snn.converter import ParallelConverter
from .ann2snn.cpu import prepack, to_int8
from .ann2snn.graph import register_activation, register_leaf, unregister_activation, unregister_leaf
from .ann2snn.network import PartlySpikingNetwork, SpikingNetwork, convertible_submodules, run_windows
from .ann2snn.prepared import PreparedANN, PreparedParts
from .ann2snn.recipe import ParallelConversionRecipe
from .errors import (
    ConfigError,
    ConversionError,
    DataError,
    FileError,
    MissingExtraError,
    RankError,
    RegistrationError,
    SJPCError,
    StateDictError,
    UnsupportedReleaseError,
)
from .export import export_integers, export_onnx, to_torch
from .files import load, save
from .functional import pack_frames
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
from .suggestion import Setting, Suggestion, suggest_time_steps
from .training import FineTuning, fine_tune, replace_activations
from .version import __version__ as __version__

__all__ = [
    "DAQCFS",
    "QCFS",
    "ClipReLU",
    "ConfigError",
    "ConversionConfig",
    "ConversionError",
    "DataError",
    "Evaluation",
    "FileError",
    "FineTuning",
    "Inspection",
    "LayerErrors",
    "MissingExtraError",
    "OperationCount",
    "ParallelConversionNode",
    "ParallelConversionRecipe",
    "ParallelConverter",
    "PartlySpikingNetwork",
    "PreparedANN",
    "PreparedParts",
    "RankError",
    "RegistrationError",
    "Report",
    "SJPCError",
    "Setting",
    "SpikePackNode",
    "SpikingActivation",
    "SpikingNetwork",
    "SpikingNode",
    "StateDictError",
    "Suggestion",
    "TSANode",
    "UnsupportedReleaseError",
    "convertible_submodules",
    "count_operations",
    "evaluate",
    "export_integers",
    "export_onnx",
    "fine_tune",
    "inspect",
    "layer_errors",
    "load",
    "pack_frames",
    "prepack",
    "register",
    "register_activation",
    "register_leaf",
    "replace_activations",
    "report",
    "run_windows",
    "save",
    "suggest_time_steps",
    "synop_rules",
    "to_int8",
    "to_torch",
    "unregister",
    "unregister_activation",
    "unregister_leaf",
    "verify",
]

register()
