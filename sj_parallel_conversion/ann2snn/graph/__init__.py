"""torch.fx passes, one function each; every pass leaves the outputs of the network as they were."""

from .activations import activation_sites, standardise_activations
from .passes import fuse_batchnorms, one_module_per_call, remove_inplace, replace_module
from .registry import bounds, is_rectifier, register_activation, register_leaf
from .tracing import check_outputs, trace

__all__ = [
    "activation_sites",
    "bounds",
    "check_outputs",
    "fuse_batchnorms",
    "is_rectifier",
    "one_module_per_call",
    "register_activation",
    "register_leaf",
    "remove_inplace",
    "replace_module",
    "standardise_activations",
    "trace",
]
