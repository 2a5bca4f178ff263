"""torch.fx passes, one function each; every pass leaves the outputs of the network as they were."""

from .activations import activation_sites, standardise_activations
from .passes import fuse_batchnorms, one_module_per_call, remove_inplace, replace_module
from .registry import bounds, is_rectifier, register_activation, register_leaf
from .source import bake_weights, check_single_input, plain_copy
from .tracing import check_outputs, trace, trace_own

__all__ = [
    "activation_sites",
    "bake_weights",
    "bounds",
    "check_outputs",
    "check_single_input",
    "fuse_batchnorms",
    "is_rectifier",
    "one_module_per_call",
    "plain_copy",
    "register_activation",
    "register_leaf",
    "remove_inplace",
    "replace_module",
    "standardise_activations",
    "trace",
    "trace_own",
]
