"""A model on its way to a conversion in parts: where they are, and what they are called with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from ...torch_compat import tree_leaves, tree_map
from ..data.inputs import Call, placement
from ..graph import plain_copy
from ..graph.side_effects import undone
from .attention_calls import add_attention_calls, remove_submodules
from .calls import PartData, SubmoduleInputs, first_calls, refuse_written_inputs, with_graded_inputs
from .parts import PartlySpikingNetwork, naming_part, replace_everywhere
from .spiking_network import SpikingNetwork
from .submodules import find_submodules

Made = TypeVar("Made")


class Part(NamedTuple):
    """
    :param module: a submodule that a spiking network will stand for
    :param inputs: its calls, for which the whole model runs
    :param graded_input: whether other layers of the model compute its input
    """

    module: nn.Module
    inputs: SubmoduleInputs
    graded_input: bool


class ModelInParts:
    """
    A copy of a model, and where its parts are.

    :param ann: the model; it is left as it was
    :param patterns: the submodules, as in :func:`find_submodules`
    :param dataloader: calibration data for the whole model
    :param device: where the copy goes; ``None`` means where ``ann`` is
    :param layers_alone: whether submodules without an activation can be converted
    :raises ConversionError: if a submodule cannot be converted; the message names it
    """

    def __init__(
        self,
        ann: nn.Module,
        patterns: Sequence[str],
        dataloader: Iterable[Any],
        device: torch.device | str | None,
        layers_alone: bool = False,
    ) -> None:
        self.model = model = plain_copy(ann).eval()
        self.device, _ = placement(model, device)
        model.to(self.device)
        with undone(model):
            data = PartData(model, dataloader, self.device)
            first = data.first()
            self._sample = shape_of_sample(first)
            added = add_attention_calls(model, first) if layers_alone else []
            names = find_submodules(model, patterns, first_calls(model, data.first()), layers_alone)
            remove_submodules(model, set(added) - set(names))
            refuse_written_inputs(model, names, data)
            graded = with_graded_inputs(model, names, data.first())
            if layers_alone and not any(map(_is_float, tree_leaves(tuple(first)))):
                graded = set(names)  # what a model makes of token ids is a choice of rows, and graded
        self._parts = {
            name: Part(model.get_submodule(name), SubmoduleInputs(model, name, data), name in graded) for name in names
        }

    @property
    def names(self) -> list[str]:
        """Of the parts."""
        return list(self._parts)

    def each(self, make: Callable[[str, Part], Made]) -> dict[str, Made]:
        """:param make: of a part's name and the part. :return: what it makes, by name"""
        made = {}
        with undone(self.model):
            for name, part in self._parts.items():
                with naming_part(name):
                    made[name] = make(name, part)
        return made

    def with_networks(self, parts: dict[str, SpikingNetwork]) -> PartlySpikingNetwork:
        """:param parts: the spiking networks by name. :return: a copy of the model with them in these places"""
        model = plain_copy(self.model).eval()
        for name, snn in parts.items():
            replace_everywhere(model, model.get_submodule(name), snn)
        return PartlySpikingNetwork(model, self._sample).eval()


def _is_float(value: object) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def shape_of_sample(call: Call) -> Call:
    """
    :param call: what a model is called with: batches ``[N, ...]``, or lists of images
    :return: the same for one sample, on the device ``meta``, where tensors have a shape and no values
    """

    def first(x: object) -> object:
        return x[:1] if isinstance(x, Tensor) and x.dim() else x[:1] if isinstance(x, list) else x

    named = (tuple(map(first, call.args)), {name: first(x) for name, x in call.kwargs.items()})
    return Call(*tree_map(lambda x: torch.empty_like(x, device="meta") if isinstance(x, Tensor) else x, named))
