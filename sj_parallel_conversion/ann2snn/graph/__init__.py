"""
The capture of a model, and passes on its graph, one function each; every pass leaves the outputs as they were.

:mod:`.network_graph` is the way in, :mod:`.operations` the table that says what operations are.
"""

from .activations import activation_sites
from .copying import plain_copy
from .network_graph import graph_of
from .outputs import output_values
from .passes import fuse_batchnorms, replace_module
from .registry import (
    bounds,
    is_rectifier,
    register_activation,
    register_leaf,
    unregister_activation,
    unregister_leaf,
)
from .shortcut import ShortcutReLU, membrane_shortcuts, shortcut_site
from .signals import Signals, operation_name
from .spiking_inputs import analogue_operations, give_layers_spikes, pool_after_activation

__all__ = [
    "ShortcutReLU",
    "Signals",
    "activation_sites",
    "analogue_operations",
    "bounds",
    "fuse_batchnorms",
    "give_layers_spikes",
    "graph_of",
    "is_rectifier",
    "membrane_shortcuts",
    "operation_name",
    "output_values",
    "plain_copy",
    "pool_after_activation",
    "register_activation",
    "register_leaf",
    "replace_module",
    "shortcut_site",
    "unregister_activation",
    "unregister_leaf",
]
