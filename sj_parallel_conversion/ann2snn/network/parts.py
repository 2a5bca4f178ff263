"""Models that are converted in parts: the parts, and the data that reach them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from ...errors import ConversionError, DataError, SJPCError
from ...neuron.spiking_activation import SpikingActivation
from ..data.batches import model_arguments, replayable
from ..graph import replace_module
from ..graph.macs import MacCounter
from .spiking_network import SpikingNetwork, shape_of_sample
from .submodules import find_submodules


class SpikingSubmodule(nn.Module):
    """
    A spiking network in the place of an ANN's submodule. What stands around it knows nothing of time, so it takes
    ``[N, ...]`` and returns the decoded output, in either step mode.

    :param snn: the converted submodule
    """

    def __init__(self, snn: SpikingNetwork) -> None:
        super().__init__()
        self.snn = snn

    def forward(self, *args: Tensor, **kwargs: Tensor) -> object:
        """:param args: the submodule's one input ``[N, ...]``. :return: what the submodule returned, decoded"""
        return self.snn.predict(*args, *kwargs.values())


class PartlySpikingNetwork(nn.Module):
    """
    A copy of a model, in evaluation mode, in which some submodules are spiking networks. It is called as the model is
    and returns what the model returns: the whole time window passes within one call.

    :param model: the model, with a :class:`SpikingSubmodule` in each place
    :param sample: shapes and types of one sample of the model's inputs, as :class:`SpikingNetwork` takes them
    """

    def __init__(self, model: nn.Module, sample: tuple = ()) -> None:
        super().__init__()
        self.model = model
        self.sample = sample

    def forward(self, *args: object, **kwargs: object) -> object:
        """:param args: what the model takes. :return: what it returns, decoded"""
        return self.model(*args, **kwargs)

    predict = forward

    @property
    def parts(self) -> dict[str, SpikingNetwork]:
        """The converted submodules by their names in the model."""
        return {name: m.snn for name, m in self.model.named_modules() if isinstance(m, SpikingSubmodule)}

    @property
    def time_steps(self) -> int:
        """T, the length of the time window."""
        return next(iter(self.parts.values())).time_steps

    @property
    def execution(self) -> str:
        """``"spikes"`` or ``"packed"``, as :attr:`SpikingNetwork.execution`; set for all parts."""
        return next(iter(self.parts.values())).execution

    @execution.setter
    def execution(self, value: str) -> None:
        for snn in self.parts.values():
            snn.execution = value

    @property
    def step_by_step(self) -> bool:
        """Whether synapses run at each step (the slow reference); set for all parts."""
        return next(iter(self.parts.values())).step_by_step

    @step_by_step.setter
    def step_by_step(self, value: bool) -> None:
        for snn in self.parts.values():
            snn.step_by_step = value

    def neurons(self) -> list[SpikingActivation]:
        """The places where neurons stand."""
        return [neuron for snn in self.parts.values() for neuron in snn.neurons()]


class SubmoduleInputs:
    """
    What a submodule is called with while the whole model runs on the calibration data. The model runs anew each time
    this is iterated over, so that no inputs are kept.

    :param model: the whole model, in evaluation mode; left as it was
    :param name: the submodule
    :param batches: yields the arguments of each call of ``model``
    """

    def __init__(self, model: nn.Module, name: str, batches: Callable[[], Iterator[tuple]]) -> None:
        self._model, self._name, self._batches = model, name, batches

    def __iter__(self) -> Iterator[Tensor]:
        calls: list[Tensor] = []
        hook = self._model.get_submodule(self._name).register_forward_pre_hook(
            lambda module, args, kwargs: calls.append(self._only_input(args, kwargs)), with_kwargs=True
        )
        seen = False
        try:
            for arguments in self._batches():
                _run(self._model, arguments)
                filled = [x for x in calls if x.numel() > 0]
                seen = seen or bool(filled)
                yield from filled
                calls.clear()
        finally:
            hook.remove()
        if not seen:
            raise DataError(
                f"submodule {self._name!r} is not called when the model runs on the calibration data, or with empty "
                "tensors only"
            )

    def _only_input(self, args: tuple, kwargs: dict[str, object]) -> Tensor:
        given = [*args, *kwargs.values()]
        if len(given) == 1 and isinstance(given[0], Tensor):
            return given[0].detach().clone()
        takes = ", ".join(type(value).__name__ for value in given)
        raise ConversionError(
            f"it is called with ({takes}), and only submodules that take one tensor can be converted. Choose "
            "submodules inside it"
        )


@torch.no_grad()
def convert_submodules(
    ann: nn.Module,
    patterns: Sequence[str],
    dataloader: Iterable,
    device: torch.device | str | None,
    convert: Callable[[nn.Module, Iterable, torch.device | str | None, str, bool], SpikingNetwork],
) -> PartlySpikingNetwork:
    """
    :param ann: the model; it is left as it was
    :param patterns: the submodules, as in :func:`find_submodules`
    :param dataloader: calibration data for the whole model
    :param device: where the result goes; ``None`` means where ``ann`` is
    :param convert: ``(submodule, its inputs, device, its name, whether other layers compute its inputs) -> SNN``
    :return: a copy of ``ann`` with spiking networks in these places
    :raises ConversionError: if a submodule cannot be converted; the message names it
    """
    names = find_submodules(ann, patterns)
    model = copy.deepcopy(ann).eval()
    reference = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    model.to(reference.device if device is None else device)
    reference = reference.to(device)
    source = replayable(dataloader)

    def batches() -> Iterator[tuple]:
        for i, batch in enumerate(source):
            yield tree_map(lambda x: _like(reference, x), model_arguments(model, batch, i))

    first = next(batches(), None)
    if first is None:
        raise DataError("dataloader is empty: conversion needs at least one batch of calibration data")
    graded, parts = _with_graded_inputs(model, names, first), {}
    for name in names:
        inputs = SubmoduleInputs(model, name, batches)
        try:
            parts[name] = convert(model.get_submodule(name), inputs, reference.device, name, name in graded)
        except ConversionError as error:
            raise ConversionError(f"submodule {name!r}: {error}") from error
    for name, snn in parts.items():
        replace_module(model, name, SpikingSubmodule(snn))
    return PartlySpikingNetwork(model, shape_of_sample(first)).eval()


def _run(model: nn.Module, arguments: tuple) -> None:
    """:raises DataError: if ``model`` cannot be called with these"""
    try:
        model(*arguments)
    except SJPCError:
        raise
    except Exception as error:
        raise DataError(f"{type(model).__name__} fails on a calibration batch: {error}") from error


def _with_graded_inputs(model: nn.Module, names: list[str], arguments: tuple) -> set[str]:
    """Those of the submodules before which something is multiplied: their inputs come from other layers."""
    graded: set[str] = set()
    hooks = []
    with MacCounter() as counter:
        for name in names:
            hooks.append(
                model.get_submodule(name).register_forward_pre_hook(
                    lambda module, args, name=name: graded.add(name) if counter.total else None
                )
            )
        try:
            _run(model, arguments)
        finally:
            for hook in hooks:
                hook.remove()
    return graded


def _like(reference: Tensor, x: object) -> object:
    if not isinstance(x, Tensor):
        return x
    return x.to(reference) if x.is_floating_point() else x.to(reference.device)
