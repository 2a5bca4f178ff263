"""The nodes' CuPy backend: one fused kernel (node.cu) that reads the currents and writes the train, or the level."""

from .fused import check_closed_form, decoded, spike_train
from .launch import BACKENDS, check_backend

__all__ = ["BACKENDS", "check_backend", "check_closed_form", "decoded", "spike_train"]
