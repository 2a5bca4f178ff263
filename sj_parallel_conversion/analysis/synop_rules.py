"""Rules with which SpikingJelly's own counter finds the synaptic operations that count_operations finds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from ..ann2snn.cpu.prepack import PrepackedConv2d
from ..ann2snn.graph.signals import LAYER, SPIKES, Signals
from ..ann2snn.network.options import STEP_BY_STEP
from ..ann2snn.network.parts import PartlySpikingNetwork
from ..ann2snn.network.spiking_network import SpikingNetwork
from ..compat import synop_counter
from ..errors import ConfigError, DataError
from ..neuron.spiking_activation import SpikingActivation
from .answers import check_converted

_ATEN = torch.ops.aten
# Where the input stands among the arguments of an operator. The weight comes next.
_INPUT = {
    _ATEN.convolution.default: 0, _ATEN.mm.default: 0, _ATEN.bmm.default: 0, _ATEN.addmm.default: 1,
    _ATEN.baddbmm.default: 1,
}  # fmt: skip


def synop_rules(snn: SpikingNetwork | PartlySpikingNetwork) -> dict[object, Callable[..., int]]:
    """
    Rules for the ``SynOpCounter`` of SpikingJelly 2.0.0, whose own rules know spikes of 0 and 1 alone::

        counter = SynOpCounter(extra_rules=sjpc.synop_rules(snn))
        snn.execution = "stepwise"
        with DispatchCounterMode([counter]), torch.no_grad():
            snn.predict(x)
        counter.get_total()  # as count_operations(snn, [x]).total("synops") * len(x)

    SpikingJelly counts. The rules tell it which layers receive spikes, and that each value other than 0 is one: a
    negative spike, and what average pooling makes of several spikes.

    :param snn: what ``convert`` returned
    :return: for each operator a function ``(args, kwargs, out) -> count``. It raises ConfigError in an execution whose
        layers do not run at each step
    :raises UnsupportedReleaseError: if this release of SpikingJelly has no such counter
    :raises DataError: if ``snn`` is no converted network, or runs on kernels that no counter sees
    """
    own = synop_counter().rules
    check_converted("synop_rules", snn)
    if any(isinstance(module, PrepackedConv2d) for module in snn.modules()):
        raise DataError("synop_rules: counters do not see prepacked kernels. Give it the network that was prepacked")
    layers = list(_layers_of_spikes(snn))
    return {op: _rule(snn, layers, own[op], place) for op, place in _INPUT.items()}


def _layers_of_spikes(snn: SpikingNetwork | PartlySpikingNetwork) -> Iterator[nn.Linear | _ConvNd]:
    for part in [snn] if isinstance(snn, SpikingNetwork) else snn.parts.values():
        sites = {name for name, module in part.net.named_modules() if isinstance(module, SpikingActivation)}
        signals = Signals(part.net, sites, part.graded_input)
        for node in signals.nodes(LAYER):
            if node.op == "call_module" and signals.received(node) == {SPIKES}:
                yield part.net.get_submodule(node.target)


def _rule(
    snn: SpikingNetwork | PartlySpikingNetwork, layers: list[nn.Linear | _ConvNd], own: Callable[..., int], place: int
) -> Callable[..., int]:
    def count(args: tuple[Any, ...], kwargs: dict[str, object], out: object) -> int:
        """The synaptic operations of one call of the operator; 0 where its layer receives no spikes."""
        before, (x, weight), after = args[:place], args[place : place + 2], args[place + 2 :]
        if snn.execution not in STEP_BY_STEP:
            raise ConfigError(
                f"execution={snn.execution!r} does not run the layers at each step, so that there is nothing to count. "
                "Set snn.execution = 'stepwise'"
            )
        if weight.data_ptr() not in {layer.weight.data_ptr() for layer in layers}:  # a linear layer's is transposed
            return 0
        # Twos, because the rule looks for ones on both sides, and a weight may be 1.
        spikes, weight = (x != 0).to(x.dtype), torch.full_like(weight, 2)
        return own((*before, spikes, weight, *after), kwargs, out)

    return count
