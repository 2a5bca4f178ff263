r"""
Folding: the arithmetic of the neurons becomes part of the weights around them.

A neuron with the value of one level s (``step``), psi, shift and the output per level u (``unit``) computes

.. math:: y = u\,\mathrm{clip}(\lfloor (x + shift) / s + \psi / \theta \rfloor, 0, k_{max}).

The layer before it takes over 1/s and the two offsets, the layers behind it take over u, and what is left is a floor
and a clip on one tensor of levels.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import fx

from ..data.inputs import Batch
from ..graph.shapes import record_shapes
from .inputs import FoldInputs
from .outputs import FoldOutputs
from .shortcuts import fold_shortcuts


@torch.no_grad()
def fold(model: fx.GraphModule, names: Iterable[str], example: Batch) -> None:
    """
    Fold neurons into the layers of their network, in place. The network computes the same up to float rounding, and
    every neuron emits the same spikes but for inputs that lie within rounding of a threshold. What is folded depends
    on the graph alone, so that a state dict loads into a network that was converted anew.

    :param model: a converted network in plain form
    :param names: the :class:`SpikingActivation` modules that may be folded
    :param example: a batch, of which the shapes are taken; two samples show what is an axis of the batch
    """
    record_shapes(model, example)
    fold_shortcuts(model, set(names))
    additions = FoldInputs(model, set(names)).run()
    FoldOutputs(model, set(names), additions).run()
    model.recompile()
