"""
The capture of a model, and passes on its graph, one function each; every pass leaves the outputs as they were.

:mod:`.network_graph` is the way in, :mod:`.operations` the table that says what operations are.
"""

from .activations import activation_sites, possible_sites
from .copying import plain_copy
from .keeping import check_patterns, mark_kept, names_of
from .network_graph import graph_of
from .operations import is_kept
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
    "check_patterns",
    "fuse_batchnorms",
    "give_layers_spikes",
    "graph_of",
    "is_kept",
    "is_rectifier",
    "mark_kept",
    "membrane_shortcuts",
    "names_of",
    "operation_name",
    "output_values",
    "plain_copy",
    "pool_after_activation",
    "possible_sites",
    "register_activation",
    "register_leaf",
    "replace_module",
    "shortcut_site",
    "unregister_activation",
    "unregister_leaf",
]
