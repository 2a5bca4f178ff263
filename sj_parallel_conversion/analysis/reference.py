"""The ANN in the graph that a converted network was made of, so that their values can be compared site by site."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from ..ann2snn import graph
from ..ann2snn.data.batches import CalibrationData
from ..ann2snn.data.inputs import placement
from ..ann2snn.graph.shapes import record_shapes
from ..ann2snn.network.calls import PartData, SubmoduleInputs
from ..ann2snn.network.parts import PartlySpikingNetwork
from ..ann2snn.network.spiking_network import SpikingNetwork
from ..errors import ConversionError
from ..neuron.spiking_activation import SpikingActivation


@dataclass(frozen=True)
class Pair:
    """
    A converted network, or a part of one, and its ANN.

    :param prefix: of the names of its layers in the whole model
    :param snn: the network
    :param model: the ANN, with a module under the name of each of the network's neurons
    :param data: what both are run on
    """

    prefix: str
    snn: SpikingNetwork
    model: fx.GraphModule
    data: CalibrationData


def pairs_of(
    snn: SpikingNetwork | PartlySpikingNetwork, ann: nn.Module, dataloader: Iterable[Any], show_progress: bool
) -> Iterator[Pair]:
    """
    :param snn: what ``convert`` returned
    :param ann: the ANN that it was made of
    :param dataloader: inputs
    :param show_progress: whether progress bars are drawn
    :return: the network and its ANN; of a model that is converted in parts each part, which is given what the ANN's
        submodule gets
    :raises ConversionError: if the network was not made of such an ANN
    """
    if isinstance(snn, SpikingNetwork):
        yield _pair("", snn, ann, dataloader, show_progress)
        return
    model = graph.plain_copy(ann).eval()
    device, _ = placement(snn, None)
    model.to(device)
    calls = PartData(model, dataloader, device)
    for name, part in snn.parts.items():
        try:
            submodule = model.get_submodule(name)
        except AttributeError as error:
            raise ConversionError(f"{type(ann).__name__} has no submodule {name!r}, which {_NOT_ITS_ANN}") from error
        yield _pair(f"{name}.", part, submodule, SubmoduleInputs(model, name, calls), show_progress)


def _pair(prefix: str, snn: SpikingNetwork, ann: nn.Module, dataloader: Iterable[Any], show_progress: bool) -> Pair:
    plain = graph.plain_copy(ann)
    device, dtype = placement(snn, None)
    data = CalibrationData(dataloader, plain, device, dtype, show_progress)
    model, _ = graph.graph_of(plain, data, device, snn.config.free_sizes)
    names = _neurons(snn)
    _prepare(model, snn, names, data)
    missing = [name for name in names if not _is_module(model, name)]
    if len(missing) == len(names):
        raise ConversionError(f"{type(ann).__name__} has no layer {prefix + missing[0]!r}, which {_NOT_ITS_ANN}")
    return Pair(prefix, snn, model, data)


_NOT_ITS_ANN = "the converted network has: give the ANN that it was converted from"


def _prepare(model: fx.GraphModule, snn: SpikingNetwork, names: list[str], data: CalibrationData) -> None:
    """The passes that make room for neurons, as far as this network shows that they were run for it."""
    record_shapes(model, data.example())
    if any(name not in dict(model.named_modules()) for name in names) and snn.config.membrane_shortcuts:
        graph.membrane_shortcuts(model)
    if snn.config.gives_layers_spikes:
        graph.pool_after_activation(model)
        graph.give_layers_spikes(model, snn.graded_input)


def _neurons(snn: SpikingNetwork) -> list[str]:
    return [name for name, module in snn.net.named_modules() if isinstance(module, SpikingActivation)]


def _is_module(model: fx.GraphModule, name: str) -> bool:
    return any(node.op == "call_module" and node.target == name for node in model.graph.nodes)


class Values(fx.Interpreter):
    """
    Runs the ANN and keeps what goes into some modules and comes out of them.

    :param model: the ANN
    :param names: the modules
    :param given: outputs that these modules give instead of their own, by name
    """

    def __init__(self, model: fx.GraphModule, names: set[str], given: dict[str, Tensor] | None = None) -> None:
        super().__init__(model)
        self.extra_traceback = False
        self._names, self._given = names, given or {}
        self.inputs: dict[str, Tensor] = {}
        self.outputs: dict[str, Tensor] = {}

    @torch.no_grad()
    def call_module(self, target: str, args: tuple[Any, ...], kwargs: dict[str, object]) -> object:
        """As in ``fx.Interpreter``."""
        if target not in self._names:
            return super().call_module(target, args, kwargs)
        x = args[0].clone()  # an activation in place would overwrite it
        y = super().call_module(target, args, kwargs)
        self.inputs[target], self.outputs[target] = x, y.clone()
        return self._given.get(target, y)
