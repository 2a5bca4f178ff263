"""
Which activation functions a network calls, found without this package: below torch's Python interface, where every
spelling of a function (module, function, method, in-place) is the same operator.

Counted are the operators of :data:`ACTIVATIONS`. A function that is written by hand counts by the operator in it:
``x * sigmoid(x)`` and a gate count as ``sigmoid``, GPT-2's own form of GELU as ``tanh``. Softmax, norms, ``clamp`` and
arithmetic do not count. Nor do calls on values that are the same for every input, such as Swin's table of positions:
these need no neuron.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

# the name of the operator -> how the table calls it
ACTIVATIONS = {
    "relu": "relu", "hardtanh": "hardtanh", "threshold": "threshold", "leaky_relu": "leaky_relu",
    "_prelu_kernel": "prelu", "rrelu_with_noise": "rrelu", "elu": "elu", "celu": "celu", "gelu": "gelu", "silu": "silu",
    "mish": "mish", "hardswish": "hardswish", "softplus": "softplus", "log_sigmoid_forward": "log_sigmoid",
    "hardshrink": "hardshrink", "softshrink": "softshrink", "glu": "glu",
    "sigmoid": "sigmoid", "hardsigmoid": "hardsigmoid", "tanh": "tanh",
}  # fmt: skip


@dataclass(frozen=True)
class Call:
    """
    One call of an activation function.

    :param kind: a value of :data:`ACTIVATIONS`
    :param module: name of the innermost module that was running
    :param shape: of its input
    :param digest: sum and sum of squares of its input
    """

    kind: str
    module: str
    shape: tuple[int, ...]
    digest: tuple[float, float]

    def distance(self, other: Call) -> float:
        """How far the inputs of two calls are apart; infinite if these cannot be the same call in two networks."""
        if (self.kind, self.shape) != (other.kind, other.shape):
            return float("inf")
        return sum(abs(a - b) for a, b in zip(self.digest, other.digest, strict=True))


class _Recorder(TorchDispatchMode):
    """Within it, ``calls`` grows by the activation functions that run, except inside of the modules in ``hidden``."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self.modules: list[str] = [""]
        self.hidden = 0

    def __torch_dispatch__(self, func: object, types: tuple, args: tuple = (), kwargs: dict | None = None) -> object:
        kind = ACTIVATIONS.get(func._schema.name.rpartition("::")[2].removesuffix("_"))
        if kind and not self.hidden:
            self.calls.append(Call(kind, self.modules[-1], tuple(args[0].shape), _digest(args[0])))
        return func(*args, **(kwargs or {}))


def _digest(x: Tensor) -> tuple[float, float]:
    x = x.detach().double()
    return x.sum().item(), x.square().sum().item()


def activation_calls(
    model: nn.Module, runs: Iterable[Callable[[], object]], hidden: Iterable[nn.Module] = ()
) -> list[Call]:
    """
    :param model: the network
    :param runs: two calls of it, with different inputs
    :param hidden: submodules whose inside is not looked at
    :return: the activation functions that run, in order, without those whose input is the same in both runs
    """
    first, second = (_record(model, run, set(hidden)) for run in runs)
    if [(c.kind, c.module) for c in first] != [(c.kind, c.module) for c in second]:
        return first  # a detector may run another way for other images
    return [call for call, other in zip(first, second, strict=True) if call.digest != other.digest]


@torch.no_grad()
def _record(model: nn.Module, run: Callable[[], object], hidden: set[nn.Module]) -> list[Call]:
    recorder = _Recorder()
    with _module_names(model, recorder, hidden), recorder:
        run()
    return recorder.calls


@contextmanager
def _module_names(model: nn.Module, recorder: _Recorder, hidden: set[nn.Module]) -> Iterator[None]:
    """
    Tells the recorder which module is running. These hooks also keep torch from its kernel for a whole encoder layer,
    which would hide the activation in it.
    """
    handles = []
    for name, module in model.named_modules():
        step = int(module in hidden)

        def enter(module: nn.Module, args: tuple, name: str = name, step: int = step) -> None:
            recorder.modules.append(name)
            recorder.hidden += step

        def leave(module: nn.Module, args: tuple, output: object, step: int = step) -> None:
            recorder.modules.pop()
            recorder.hidden -= step

        handles += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def describe(left: list[Call], ann: list[Call]) -> str:
    """
    :param left: activation functions that a converted network still calls
    :param ann: those of the network that it was made of
    :return: how many of which kind, and where the first of each kind stands in the ANN
    """
    counts = Counter(call.kind for call in left)
    total = Counter(call.kind for call in ann)
    parts = []
    for kind, count in counts.items():
        call = next(c for c in left if c.kind == kind)
        nearest = min(ann, key=call.distance, default=None)
        where = nearest.module if nearest and call.distance(nearest) < float("inf") else call.module
        parts.append(f"{count} of {total[kind]} {kind} ({where or 'the model itself'})")
    return ", ".join(parts)
