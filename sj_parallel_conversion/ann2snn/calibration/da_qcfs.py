"""Error calibration of the ICML 2025 paper (its Algorithm 1): running averages of the error, no gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, fx, nn

from ...neuron import SpikingNode
from ..sites import Site
from ..sweep import Sweep

if TYPE_CHECKING:
    from ..config import ConversionConfig
    from ..data import CalibrationData

MOMENTUM = 0.99


def da_qcfs(
    ann: fx.GraphModule,
    snn: fx.GraphModule,
    sites: list[Site],
    data: CalibrationData,
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
    by_name = {site.name: site for site in sites if not site.is_lossless(max_level)}
    for name in by_name:
        own_amplitude(snn.get_submodule(name).node)
    momentum = 0.0

    def visit(node: fx.Node, x1: list[Tensor], x0: list[Tensor]) -> None:
        site, spiking, reference = by_name[node.target], snn.get_submodule(node.target), ann.get_submodule(node.target)
        neuron = spiking.node
        full_scale = neuron.code.levels_per_threshold(neuron.T) / max_level
        neuron.shift.data = momentum * neuron.shift + (1 - momentum) * _mean_error(site, x1[0], x0[0])
        phi = neuron.amplitude - neuron.v_threshold
        error = _mean_error(site, reference(x1[0]), spiking(x0[0])) * full_scale
        neuron.amplitude.data = neuron.v_threshold + momentum * phi + (1 - momentum) * error

    sweep = Sweep(ann, snn, visit, set(by_name))
    for n, x in enumerate(data.batches("calibrate (DA-QCFS)")):
        momentum = min(n / (n + 1), MOMENTUM)
        sweep.run([x])


def own_amplitude(neuron: SpikingNode) -> None:
    """Give ``neuron`` an amplitude of its own, equal to its threshold until it is set."""
    if neuron.amplitude is None:
        neuron.amplitude = nn.Parameter(neuron.v_threshold.detach().clone())


def _mean_error(site: Site, target: Tensor, value: Tensor) -> Tensor:
    error = site.by_channel(target - value).mean(1)
    return error if site.channel_dim is not None else error[0]
