"""Least-squares correction of the weights, so that each layer takes back the error made before it."""

from __future__ import annotations

import copy
import operator
from typing import TYPE_CHECKING

import torch
from torch import Tensor, fx, nn

from ..graph import is_rectifier
from ..sites import Site
from ..sweep import Batches, Sweep
from .least_squares import FitNeurons
from .patches import LAYERS
from .regression import apply_change, fit_change
from .sensitivity import Sensitivity

if TYPE_CHECKING:
    from ..config import ConversionConfig
    from ..data import CalibrationData

_HELD_OUT = 8  # every eighth image chooses the ridge, or one of fewer


def weights(
    ann: fx.GraphModule,
    snn: fx.GraphModule,
    sites: list[Site],
    data: CalibrationData,
    config: ConversionConfig,
) -> None:
    """
    As :func:`~.least_squares.least_squares`, and before each neuron a ridge regression of its input's error on the
    inputs of the layer that feeds it changes that layer's weights and bias. A residual addition's error is taken
    back by the branch that has a layer; layers that feed no neuron alone (the classifier, say) correct their own
    output. In a classifier, errors that may change the class count for more (:class:`~.sensitivity.Sensitivity`).

    :param ann: the reference
    :param snn: the network with neurons; its weights and neurons are set
    :param sites: the activations
    :param data: calibration data, read once
    :param config: the conversion's options
    """
    sensitivity = Sensitivity(ann, sites)
    visitor = CorrectWeights(ann, snn, sites, config, sensitivity)
    layers = {name for name, module in snn.named_modules() if isinstance(module, LAYERS)}
    sweep = Sweep(ann, snn, {site.name for site in sites}, layers, config.max_memory)
    sweep.run(sensitivity.watch(data.batches("read calibration data")), visitor, config.show_progress)


class CorrectWeights(FitNeurons):
    """Corrects each layer, and each neuron after the layer that feeds it."""

    energy = 0.0  # what the amplitudes take from the signal the next regression gives back

    def __init__(
        self,
        ann: fx.GraphModule,
        snn: fx.GraphModule,
        sites: list[Site],
        config: ConversionConfig,
        sensitivity: Sensitivity,
    ) -> None:
        super().__init__(ann, snn, sites, config, sensitivity)
        self.inputs: dict[str, Batches] = {}

    def before(self, node: fx.Node, ann_input: Batches, snn_input: Batches) -> None:
        """Correct the layer that feeds the neuron at ``node``, then fit the neuron."""
        layer = self._feeder(node)
        if layer is not None and layer in self.inputs:
            rectified = is_rectifier(self.sites[node.target].activation)
            weights = self.sensitivity.weights(node.target)
            self._correct(layer, self.inputs.pop(layer), ann_input, snn_input, rectified, weights)
        super().before(node, ann_input, snn_input)

    def after(self, node: fx.Node, snn_input: Batches, ann_output: Batches, snn_output: Batches) -> None:
        """Correct a layer that feeds no neuron alone, or keep its inputs until its neuron is reached."""
        if node.target in self.sites or not isinstance(self.snn.get_submodule(node.target), LAYERS):
            return
        if self._site_fed_by(node):
            self.inputs[node.target] = snn_input
        else:
            self._correct(node.target, snn_input, ann_output, snn_output, rectified=False)

    def _correct(
        self,
        layer: str,
        inputs: Batches,
        target: Batches,
        output: Batches,
        rectified: bool,
        weights: list[Tensor] | None = None,
    ) -> None:
        """Change ``layer`` so that ``output`` comes nearer to ``target``; ``output`` is brought up to date."""
        module = self.snn.get_submodule(layer)
        weights = [None] * len(inputs) if weights is None else weights
        held_out = min(_HELD_OUT, sum(len(z) for z in output))
        change = fit_change(module, inputs, output, target, weights, rectified, held_out)
        if change is None:
            return
        correction = copy.deepcopy(module)
        apply_change(module, change)
        correction.weight.data = module.weight - correction.weight
        correction.bias = nn.Parameter(module.bias if correction.bias is None else module.bias - correction.bias)
        for b, u in enumerate(inputs):
            output[b] = output[b] + correction(u)

    def _site_fed_by(self, node: fx.Node) -> bool:
        """Whether what ``node`` computes reaches one site, and nothing else, through additions alone."""
        while len(node.users) == 1:
            (node,) = node.users
            if node.op == "call_module" and node.target in self.sites:
                return True
            if node.target not in (operator.add, torch.add) or not _keeps_shapes(node):
                return False
        return False

    def _feeder(self, node: fx.Node) -> str | None:
        """The last layer to run of those that reach the site ``node`` through additions alone."""
        if not (node.op == "call_module" and node.target in self.sites):
            return None
        found, stack = [], [node.args[0]]
        while stack:
            source = stack.pop()
            if len(source.users) > 1:
                continue
            if source.op == "call_module" and isinstance(self.snn.get_submodule(source.target), LAYERS):
                found.append(source)
            elif source.target in (operator.add, torch.add) and _keeps_shapes(source):
                stack += source.all_input_nodes
        order = {n: i for i, n in enumerate(node.graph.nodes)}
        return max(found, key=order.__getitem__).target if found else None


def _keeps_shapes(addition: fx.Node) -> bool:
    """Whether nothing is broadcast, so that an error at one place of the sum is one at that place of each summand."""
    shapes = {n.meta.get("shape") for n in (addition, *addition.all_input_nodes)}
    return len(shapes - {None}) <= 1
