"""Least-squares correction of the weights, so that each layer takes back the error made before it."""

from __future__ import annotations

import copy
from collections.abc import Iterable

from torch import Tensor, fx, nn

from ...hooks import has_hooks
from ...user_warnings import warn
from ..config import ConversionConfig
from ..data.selection import Data
from ..graph import is_kept, is_rectifier, shortcut_site
from ..graph.operations import operator_of
from ..placement.sites import Site
from .held_out import HeldOut
from .least_squares import FitNeurons
from .patches import LAYERS
from .regression import apply_change, fit_change
from .sensitivity import Sensitivity
from .side_by_side import Batches, Sweep


def weights(
    ann: fx.GraphModule,
    snn: fx.GraphModule,
    sites: list[Site],
    data: Data,
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
    sensitivity, held_out = Sensitivity(ann, sites, data.parts, data.spool), HeldOut(config.generator())
    visitor = CorrectWeights(ann, snn, sites, config, sensitivity, held_out)
    layers = {node.target for node in snn.graph.nodes if _is_layer(snn, node)}
    sweep = Sweep(ann, snn, {site.name for site in sites}, layers, data.spool)
    batches = held_out.watch(sensitivity.watch(data.batches("read calibration data")))
    sweep.run(batches, visitor, config.show_progress)
    visitor.say_what_is_out_of_reach()


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
        held_out: HeldOut,
    ) -> None:
        super().__init__(ann, snn, sites, config, sensitivity)
        self.held_out = held_out
        self.inputs: dict[str, Batches] = {}
        self.out_of_reach: list[str] = []  # neurons before which there is no layer to correct

    def before(self, node: fx.Node, ann_input: Batches, snn_input: Batches) -> None:
        """Correct the layer that feeds the neuron at ``node``, then fit the neuron."""
        if node.target in self.sites:
            inputs = {name: self.inputs.pop(name) for name in self._feeders(node) if name in self.inputs}
            if inputs:
                layer = list(inputs)[-1]
                rectified = is_rectifier(self.sites[node.target].activation)
                weights = self.sensitivity_of(node.target)
                self._correct(layer, inputs[layer], ann_input, snn_input, rectified, weights)
            elif snn_input is not ann_input:  # before the first neurons there is no error
                self.out_of_reach.append(node.target)
        super().before(node, ann_input, snn_input)

    def after(self, node: fx.Node, snn_input: Batches, ann_output: Batches, snn_output: Batches) -> None:
        """Correct a layer that feeds no neuron alone, or keep its inputs until its neuron is reached."""
        if node.target in self.sites or not _is_layer(self.snn, node) or has_hooks(self.snn.get_submodule(node.target)):
            return
        if self._site_fed_by(node):
            self.inputs[node.target] = snn_input
        else:
            self._correct(node.target, snn_input, ann_output, snn_output, rectified=False)

    def say_what_is_out_of_reach(self) -> None:
        """Warn if the errors before most neurons stay, because nothing is corrected there."""
        count = len(self.out_of_reach)
        if 2 * count <= len(self.sites):
            return
        names = ", ".join(self.out_of_reach[:3]) + (f" and {count - 3} more" if count > 3 else "")
        warn(
            f"calibration='weights' corrects no layer before {count} of {len(self.sites)} neurons ({names}): no "
            "convolution or linear layer reaches them through additions alone, or it has hooks. There the network is "
            "calibrated as with 'least_squares'"
        )

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
        counts: Iterable[Tensor | None] = [None] * len(inputs) if weights is None else weights
        held_out = self.held_out.masks(len(z) for z in output)
        change = fit_change(module, inputs, output, target, counts, rectified, held_out, self.generator)
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
        while True:
            site = self._site_of(node)
            if site is not None or len(node.users) != 1:
                return site is not None
            (node,) = node.users
            if not _is_plain_addition(node):
                return False

    def _site_of(self, node: fx.Node) -> fx.Node | None:
        """The site that alone reads ``node``, or with a membrane shortcut, which takes the same value."""
        (user,) = node.users if len(node.users) == 1 else (shortcut_site(self.ann, node),)
        return user if user is not None and user.op == "call_module" and user.target in self.sites else None

    def _feeders(self, site: fx.Node) -> list[str]:
        """The layers that reach ``site`` through additions alone, in the order in which they run."""
        found, stack = [], [site.args[0]]
        while stack:
            source = stack.pop()
            if len(source.users) > 1 and self._site_of(source) is not site:
                continue
            if _is_layer(self.snn, source):
                found.append(source)
            elif _is_plain_addition(source):
                stack += source.all_input_nodes
        order = {n: i for i, n in enumerate(site.graph.nodes)}
        return [source.target for source in sorted(found, key=order.__getitem__)]


def _is_layer(model: fx.GraphModule, node: fx.Node) -> bool:
    """Whether ``node`` is a layer that may be changed."""
    return node.op == "call_module" and type(model.get_submodule(node.target)) in LAYERS and not is_kept(node)


def _is_plain_addition(node: fx.Node) -> bool:
    """Whether a change of one summand is the same change of the sum: nothing is scaled, added twice or broadcast."""
    if operator_of(node) != "add" or node.args[0] is node.args[1]:
        return False
    return len({n.meta.get("shape") for n in (node, *node.all_input_nodes)} - {None}) <= 1
