"""What any network answers to the batches of a loader, and the targets that come with them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..ann2snn.cpu.int8_layers import Int8Layer
from ..ann2snn.data.batches import model_call
from ..ann2snn.data.inputs import TARGET_KEYS, Call, HasForward, named_forward, placement
from ..ann2snn.network.parts import PartlySpikingNetwork
from ..ann2snn.network.spiking_network import SpikingNetwork
from ..compat import MemoryModule, MultiStepModule, StepModeContainer
from ..errors import ConfigError, DataError
from ..parameters import as_integer
from ..torch_compat import tree_leaves, tree_map

_ANSWERS = ("logits", "out", "output", "y")  # in dicts and dataclasses, the most telling name first


class Network:
    """
    A network of any kind, called once for each batch: a converted one, an ANN, or one of SpikingJelly's, which runs for
    ``time_steps`` steps and whose outputs are averaged.

    :param module: the network
    :param time_steps: T, for networks of SpikingJelly alone
    :raises ConfigError: if a network of SpikingJelly has no ``time_steps``
    """

    def __init__(self, module: nn.Module, time_steps: int | None = None) -> None:
        if not isinstance(module, nn.Module):
            raise ConfigError(f"the network must be a torch.nn.Module, got {type(module).__name__}")
        self.module = module
        self._named = _with_named_arguments(module)
        self.device, self._dtype = placement(module, None)
        converted = isinstance(module, (SpikingNetwork, PartlySpikingNetwork))
        if converted and time_steps not in (None, module.time_steps):
            raise ConfigError(f"this network was converted with T = {module.time_steps}, got time_steps={time_steps!r}")
        self._neurons = [] if converted else list(_neurons(module))
        if time_steps is not None and not (converted or self._neurons):
            raise ConfigError(
                f"time_steps={time_steps!r}: {type(module).__name__} has no spiking neurons, so it has no time"
            )
        self._steps = _checked_steps(module, time_steps) if self._neurons else 0

    def call_of(self, batch: object, index: int) -> Call:
        """What the network is called with for a batch, on its device and in its dtype."""
        return Call(*tree_map(self._moved, tuple(model_call(self._named, batch, index))))

    def answer(self, call: Call) -> object:
        """What the network returns; a mean over time, where there is time."""
        if not self._neurons:
            run = self.module.predict if isinstance(self.module, SpikingNetwork) else self.module
            return run(*call.args, **call.kwargs)
        self._reset()
        if all(neuron.step_mode == "m" for neuron in self._neurons if isinstance(neuron, MemoryModule)):
            args, kwargs = tree_map(self._repeated, tuple(call))
            answer = tree_map(_mean_over_time, self.module(*args, **kwargs))
        else:
            answer = self._mean_of_steps(call)
        self._reset()
        return answer

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Within it the network is in evaluation mode; afterwards each module is in the mode it was in."""
        modes = [(module, module.training) for module in self.module.modules()]
        try:
            if any(training for _, training in modes):
                self.module.eval()
            yield
        finally:
            for module, training in modes:
                if module.training != training:
                    module.training = training

    def _reset(self) -> None:
        for neuron in self._neurons:
            if isinstance(neuron, MemoryModule):
                neuron.reset()

    def _mean_of_steps(self, call: Call) -> object:
        steps = [self.module(*call.args, **call.kwargs) for _ in range(self._steps)]
        rest = zip(*map(tree_leaves, steps), strict=True)
        return tree_map(lambda _: _mean_over_time(_stacked(next(rest))), steps[0])

    def _repeated(self, x: object) -> object:
        return x.unsqueeze(0).repeat(self._steps, *[1] * x.dim()) if isinstance(x, Tensor) else x

    def _moved(self, x: object) -> object:
        if not isinstance(x, Tensor):
            return x
        x = x.to(self.device)
        return x.to(self._dtype) if self._dtype is not None and x.is_floating_point() else x


def _neurons(module: nn.Module) -> Iterator[nn.Module]:
    """The modules that have a time axis or a state; what is inside a StepModeContainer shows neither."""
    if isinstance(module, (MemoryModule, MultiStepModule)):
        yield module
    if not isinstance(module, StepModeContainer):
        for child in module.children():
            yield from _neurons(child)


def _checked_steps(module: nn.Module, time_steps: object) -> int:
    steps = as_integer(time_steps)
    if steps is None or steps < 1:
        raise ConfigError(
            f"{type(module).__name__} has spiking neurons of its own: give time_steps, an integer >= 1, got "
            f"{time_steps!r}"
        )
    return steps


def _stacked(values: tuple[Any, ...]) -> object:
    return torch.stack(values) if isinstance(values[0], Tensor) else values[0]


def _mean_over_time(y_seq: object) -> object:
    return y_seq.mean(0) if isinstance(y_seq, Tensor) else y_seq


def targets_of(batch: object, call: Call) -> object:
    """
    :param batch: what a loader yielded
    :param call: the call that was made of it
    :return: what else is in it: the value under a target's name, or the first element that is no argument of the call.
        ``None`` where there is nothing
    """
    if isinstance(batch, Mapping):
        return next((value for key, value in batch.items() if key in TARGET_KEYS), None)
    if not isinstance(batch, (tuple, list)):
        return None
    first = call.args[0] if call.args else None
    if len(call.args) == 1 and isinstance(first, list) and len(first) == len(batch) and _is_tensor_list(batch):
        return None  # a list of images, and nothing else
    used = max(1, len(call.args))
    return batch[used] if len(batch) > used else None


def _is_tensor_list(batch: Iterable[Any]) -> bool:
    return all(isinstance(x, Tensor) for x in batch)


def main_tensor(answer: object) -> Tensor:
    """
    :param answer: what a network returned
    :return: its only tensor, or that under a usual name (``logits``, ``out``), or the first of floats
    :raises DataError: if there is none
    """
    if isinstance(answer, Tensor):
        return answer
    for name in _ANSWERS:
        value = answer.get(name) if isinstance(answer, Mapping) else getattr(answer, name, None)
        if isinstance(value, Tensor):
            return value
    for leaf in tree_leaves(answer):
        if isinstance(leaf, Tensor) and leaf.is_floating_point():
            return leaf
    raise DataError(f"the network returns a {type(answer).__name__} in which there is no tensor of floats")


@dataclass(frozen=True)
class ConvertedNetwork:
    """Has a ``forward`` for those who ask for its arguments. The name of the class stands in their messages."""

    forward: Callable[..., Any]


def _with_named_arguments(module: nn.Module) -> HasForward:
    """Something whose ``forward`` has the names of the ANN's arguments."""
    if isinstance(module, PartlySpikingNetwork):
        return module.model
    if isinstance(module, SpikingNetwork):
        return ConvertedNetwork(named_forward(module.signature.form))
    return module


def check_converted(caller: str, snn: object) -> None:
    """:raises DataError: if ``snn`` is no converted network, or one with int8 kernels, which cannot be looked into"""
    if not isinstance(snn, (SpikingNetwork, PartlySpikingNetwork)):
        raise DataError(f"{caller} needs a converted network, got {type(snn).__name__}")
    if any(isinstance(module, Int8Layer) for module in snn.modules()):
        raise DataError(f"{caller} cannot look into int8 kernels: give it the network that to_int8 was given")


def synchronise(device: torch.device) -> None:
    """Wait for the device: CUDA returns before it has computed."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
