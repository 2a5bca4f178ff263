"""Error calibration of the ICML 2025 paper (its Algorithm 1): running averages of the error, no gradients."""

from __future__ import annotations

from torch import Tensor, fx

from ... import ranks
from ..config import ConversionConfig
from ..data.outliers import is_usual, sizes
from ..data.selection import Data
from ..placement.sites import Site
from .amplitude import own_amplitude
from .side_by_side import Batches, Sweep, Visitor

MOMENTUM = 0.99


def da_qcfs(
    ann: fx.GraphModule,
    snn: fx.GraphModule,
    sites: list[Site],
    data: Data,
    config: ConversionConfig,
) -> None:
    r"""
    Every batch runs through both networks; at each activation, in order,

    .. math::
        \psi_{DA} \leftarrow a\,\psi_{DA} + (1-a)\,\mathrm{mean}_c(x_1 - x_0) \quad \text{before it},\qquad
        \phi_{DA} \leftarrow a\,\phi_{DA} + (1-a)\,\mathrm{mean}_c(x_1 - x_0) \quad \text{after it}.

    The paper's a = 0.99 supposes thousands of batches. Here a rises from 0 to it as ``n / (n + 1)`` over the first
    batches, so that the averages mean the same after ten batches as after a thousand.

    :param ann: the reference
    :param snn: the network with neurons; their ``shift`` and ``amplitude`` are set
    :param sites: the activations
    :param data: calibration data, read once
    :param config: the conversion's options
    """
    max_level = config.node_type.code.max_level(config.time_steps)
    by_name = {site.name: site for site in sites if not (site.is_fixed or site.is_lossless(max_level))}
    for name in by_name:
        own_amplitude(snn.get_submodule(name).node)
    visitor = _RunningErrors(ann, snn, by_name)
    sweep = Sweep(ann, snn, {site.name for site in sites}, spool=data.spool)
    # a step takes one batch of each rank; one that has no more takes part without any
    for n, x in enumerate(ranks.in_step(data.batches("calibrate (DA-QCFS)"))):
        visitor.momentum = min(n / (n + 1), MOMENTUM)
        sweep.run([] if x is None else [x], visitor)


class _RunningErrors(Visitor):
    def __init__(self, ann: fx.GraphModule, snn: fx.GraphModule, sites: dict[str, Site]) -> None:
        self.ann, self.snn, self.sites, self.momentum = ann, snn, sites, 0.0

    def before(self, node: fx.Node, ann_input: Batches, snn_input: Batches) -> None:
        """Move the running errors before and after the neuron at ``node`` by those of one batch."""
        if node.target not in self.sites:
            return
        site, spiking = self.sites[node.target], self.snn.get_submodule(node.target)
        neuron, pairs = spiking.node, list(zip(ann_input, snn_input, strict=True))
        neuron.shift.data = self._average(neuron.shift, _mean_error(site, pairs, neuron.shift))
        if site.known_range is not None:
            return
        pairs = [(self.ann.get_submodule(node.target)(x1), spiking(x0)) for x1, x0 in pairs]
        if neuron.signed:  # the paper's values are >= 0; of others the magnitude lacks
            pairs = [(y1 * y0.sign(), y0.abs()) for y1, y0 in pairs]
        error = _mean_error(site, pairs, neuron.amplitude)
        # phi is what the full scale lacks; a weighted code's amplitude counts by the level
        error = error * neuron.code.levels_per_threshold(neuron.T) / neuron.code.max_level(neuron.T)
        neuron.amplitude.data = neuron.v_threshold + self._average(neuron.amplitude - neuron.v_threshold, error)

    def _average(self, old: Tensor, new: Tensor) -> Tensor:
        return self.momentum * old + (1 - self.momentum) * new


def _mean_error(site: Site, pairs: list[tuple[Tensor, Tensor]], like: Tensor) -> Tensor:
    """The mean of target - value, of the shape of ``like``. There is one pair, or none if this rank has no batch."""
    target, value = pairs[0] if pairs else (like.new_empty(0), like.new_empty(0))
    error = target - value
    if site.channel_dim != 0:  # along which the images lie
        usual = is_usual(sizes(target)) & is_usual(sizes(value))
        error = error if usual.all() else error[usual]
    error = ranks.mean_of_rows(site.by_channel(error) if pairs else error.view(1, 0).expand(like.numel(), 0))
    return error if site.channel_dim is not None else error[0]
