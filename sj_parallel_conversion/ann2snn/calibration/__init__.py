"""
Calibrations: label-free corrections of the conversion error. One file an algorithm, one table that names them.

A calibration is a function ``(ann, snn, sites, data, config) -> None``. It changes the neurons (and, where it says so,
the weights) of ``snn`` and leaves ``ann`` alone.
"""

from __future__ import annotations

from collections.abc import Callable

from .da_qcfs import da_qcfs
from .least_squares import least_squares
from .weights import weights


def none(*args: object) -> None:
    """Leave the network as the thresholds made it."""


CALIBRATIONS: dict[str, Callable[..., None]] = {
    "none": none,
    "da_qcfs": da_qcfs,
    "least_squares": least_squares,
    "weights": weights,
    "reconstruction": weights,  # and then :func:`~.reconstruction.reconstruct`, which needs held-out images
}

# These search the thresholds against the ANN's activations themselves, if ``threshold="mse"``.
SEARCH_THRESHOLDS = ("least_squares", "weights", "reconstruction")

# What a calibration must not be worse than, as held-out images see it. Those without an entry are published methods,
# and stay what they are. A reconstruction that does worse than "weights" is taken back where it is made.
CHEAPER = {
    "least_squares": ("da_qcfs", "none"),
    "weights": ("least_squares", "da_qcfs", "none"),
    "reconstruction": ("least_squares", "da_qcfs", "none"),
}

__all__ = ["CALIBRATIONS", "CHEAPER", "SEARCH_THRESHOLDS", "da_qcfs", "least_squares", "none", "weights"]
