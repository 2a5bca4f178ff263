"""Parallel conversion (ICML 2025)."""

from __future__ import annotations

from ..functional import CODES
from .base import SpikingNode


class ParallelConversionNode(SpikingNode):
    r"""
    The parallel spiking neuron of Hao et al., ICML 2025: sorted spikes, T + 1 levels.

    The paper's matrix form is :math:`s_t = H((\Lambda I)_t + \psi / (T-t+1) - \theta)` with row t of
    :math:`\Lambda` equal to 1/(T-t+1); this class uses its O(1) closed form, :math:`s_t = 1` iff
    :math:`k \ge T-t+1`. Lossless for any distribution of the input over time (Theorem 4.1):
    ``theta * mean_t(s_t) == qcfs(mean_t(I_t))``. Arguments and shapes as in :class:`SpikingNode`.
    """

    code = CODES["sorted"]
