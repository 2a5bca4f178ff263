"""torch.fx passes, one function each; every pass leaves the outputs of the network as they were."""

from .activations import activation_sites, standardise_activations
from .attention import open_attention
from .passes import fuse_batchnorms, one_module_per_call, remove_inplace, replace_module
from .registry import bounds, is_rectifier, register_activation, register_leaf
from .shortcut import ShortcutReLU, membrane_shortcuts, shortcut_site
from .signals import Flow, operation_name
from .source import bake_weights, check_single_input, plain_copy
from .spiking_inputs import analogue_operations, give_layers_spikes, pool_after_activation
from .tracing import check_outputs, trace, trace_own

__all__ = [
    "Flow",
    "ShortcutReLU",
    "activation_sites",
    "analogue_operations",
    "bake_weights",
    "bounds",
    "check_outputs",
    "check_single_input",
    "fuse_batchnorms",
    "give_layers_spikes",
    "is_rectifier",
    "membrane_shortcuts",
    "one_module_per_call",
    "open_attention",
    "operation_name",
    "plain_copy",
    "pool_after_activation",
    "register_activation",
    "register_leaf",
    "remove_inplace",
    "replace_module",
    "shortcut_site",
    "standardise_activations",
    "trace",
    "trace_own",
]
