"""torch.fx passes, one function each; every pass leaves the outputs of the network as they were."""

from .activations import RELUS, SUPPORTED, activation_sites, standardise_activations
from .flow import Flow, operation_name
from .passes import fuse_batchnorms, one_module_per_call, remove_inplace, replace_module
from .spiking_inputs import analogue_operations, give_layers_spikes, pool_after_activation
from .tracing import check_outputs, trace

__all__ = [
    "RELUS",
    "SUPPORTED",
    "Flow",
    "activation_sites",
    "analogue_operations",
    "check_outputs",
    "fuse_batchnorms",
    "give_layers_spikes",
    "one_module_per_call",
    "operation_name",
    "pool_after_activation",
    "remove_inplace",
    "replace_module",
    "standardise_activations",
    "trace",
]
