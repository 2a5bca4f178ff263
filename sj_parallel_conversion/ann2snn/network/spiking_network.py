"""The converted network: run it step by step or all at once, decode, reset."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_map

from ...compat import MemoryModule
from ...errors import ConfigError, DataError, as_data_error
from ...kernels import BACKENDS
from ...neuron import SerialNode
from ...neuron.spiking_activation import SpikingActivation
from ...parameters import check_flag, check_steps
from .. import graph
from ..config import ConversionConfig, check_choice
from .time_axis import Steps, Timeline, mean_input, mean_over_time

EXECUTIONS = ("spikes", "packed")
_WINDOW_DEPENDS_ON = ("_step_mode", "_execution", "step_by_step", "_serial", "training")


class SpikingNetwork(MemoryModule):
    """
    A network of neurons that see the whole time window, in the graph of the ANN that it came from.

    Two step modes, as everywhere in SpikingJelly:

    - ``"s"`` (default): ``snn(x)`` with ``x`` ``[N, ...]`` returns one step of the output. The first call after a
      reset takes ``x`` as the input of the whole window; after T steps a new window begins.
    - ``"m"``: ``snn(x_seq)`` with ``x_seq`` ``[T, N, ...]`` returns the output sequence ``[T, N, ...]``.

    A window of step mode ``"s"`` is computed at its first call. Loading a state dict, moving the network, and a change
    of ``step_mode``, ``execution``, ``step_by_step`` or ``training`` begin a new one, as do copies and pickles; weights
    that an optimiser changes take effect with the next window.

    :param net: the graph, with a :class:`SpikingActivation` in the place of each activation
    :param config: the options of the conversion
    :param sample: shape and type of one sample ``[1, ...]`` of its input, as :func:`shape_of_sample` gives them
    :param graded_input: whether it is a part of a network whose input comes from other layers of it
    """

    def __init__(
        self, net: fx.GraphModule, config: ConversionConfig, sample: tuple = (), graded_input: bool = False
    ) -> None:
        super().__init__()
        self.net = net
        self.config = config
        self.sample = sample
        self.graded_input = graded_input
        # A graph's functions know the module that they stand in until the graph is pickled.
        self.operation_names = [graph.operation_name(node) for node in net.graph.nodes]
        self.execution = "spikes"
        self.backend = config.backend
        self.step_by_step = False
        self.serial = False
        self.register_memory("window_input", None)
        self.register_memory("window_output", None)
        self.register_memory("step", 0)

    @property
    def input_shape(self) -> tuple[int, ...] | None:
        """Shape of one sample of the calibration data, ``[1, ...]``; ``None`` if it is not known."""
        return tuple(self.sample[0].shape) if self.sample else None

    @property
    def time_steps(self) -> int:
        """T, the length of the time window."""
        return self.config.time_steps

    @property
    def execution(self) -> str:
        """
        ``"spikes"``: every neuron emits its train ``[T, N, ...]``, open to monitors; ``"packed"``: one tensor
        ``[N, ...]`` of decoded levels passes, so that time and memory do not depend on T. The results agree.
        """
        return self._execution

    @execution.setter
    def execution(self, value: str) -> None:
        check_choice("execution", value, list(EXECUTIONS))
        self._execution = value
        for site in self.neurons():
            site.packed = value == "packed"

    @property
    def backend(self) -> str:
        """
        What the neurons run on: ``"torch"`` or ``"cupy"``; ``"mixed"`` if they were set one by one. Setting it sets all
        of them, and raises ConfigError where a node does.
        """
        backends = {site.node.backend for site in self.neurons()}
        return backends.pop() if len(backends) == 1 else "mixed"

    @backend.setter
    def backend(self, value: str) -> None:
        for site in self.neurons():
            site.node.backend = value

    @property
    def supported_backends(self) -> tuple[str, ...]:
        """What :attr:`backend` can be; SpikingJelly 0.0.0.0.14's ``functional.set_backend`` asks for it."""
        return BACKENDS

    @property
    def serial(self) -> bool:
        """
        Whether neurons of a weighted code run their serial form: one digit at each step, as it would be on hardware,
        from the digits that have come so far. The network then runs step by step, whatever :attr:`execution` is.
        Mode ``"spikepack"`` answers as before; ``"css"`` may differ by one level at each neuron, and refuses networks
        of which neurons apply an activation.
        """
        return self._serial

    @serial.setter
    def serial(self, value: bool) -> None:
        """
        :raises ConfigError: if the value is no bool, the neurons have no serial form, or one of them applies an
            activation ("css")
        """
        check_flag(type(self).__name__, "serial", value)
        nodes = [site.node for site in self.neurons()]
        if value and not all(isinstance(node, SerialNode) for node in nodes):
            raise ConfigError(
                f"mode={self.config.mode!r} has no serial form: its neurons need the whole window. Convert with "
                "mode='spikepack' or 'css'"
            )
        nodes = [node for node in nodes if isinstance(node, SerialNode)]
        if value:
            for node in nodes:
                node.check_serial()
        for node in nodes:
            node.serial = value
        self._serial = value

    def neurons(self) -> list[SpikingActivation]:
        """The places where neurons stand."""
        return [module for module in self.net.modules() if isinstance(module, SpikingActivation)]

    def single_step_forward(self, x: Tensor) -> object:
        """
        :param x: the input ``[N, ...]`` of the whole window, the same at each call
        :return: the output of one step
        :raises DataError: if the input changed within a window, or cannot be run
        """
        self._check_input(x)
        if self.step == 0:
            self.window_output = self._run(x)
            self.window_input = x.detach().clone()
        elif not _same(x, self.window_input):
            raise DataError(
                f"the input changed at step {self.step} of {self.time_steps}. In step mode 's' one input is shown "
                "during the whole window: call functional.reset_net(snn) before the next input, or, for an input that "
                "changes over time, functional.set_step_mode(snn, 'm') and give the sequence [T, N, ...]"
            )
        t, self.step = self.step, (self.step + 1) % self.time_steps
        # Copies, because evaluation loops add up the steps in place.
        return tree_map(lambda y_seq: y_seq[t].clone() if isinstance(y_seq, Tensor) else y_seq, self.window_output)

    def multi_step_forward(self, x_seq: Tensor) -> object:
        """
        :param x_seq: ``[T, N, ...]``, which may differ from step to step
        :return: ``y_seq`` ``[T, N, ...]`` (or the model's dict or tuple of such)
        :raises DataError: if the first axis is not T, or the input cannot be run
        """
        self._check_input(x_seq, time_axis=True)
        return self._run(Steps(list(x_seq), mean_input(x_seq)))

    def decode(self, y_seq: object) -> object:
        """
        :param y_seq: output sequence ``[T, N, ...]`` (or a dict or tuple of such)
        :return: ``[N, ...]``, the plain mean over time: the readout carries the code's weights
        :raises DataError: if the first axis is not T
        """
        return tree_map(self._decode, y_seq)

    def predict(self, x: Tensor) -> object:
        """
        :param x: ``[N, ...]``, shown at every step
        :return: the decoded output ``[N, ...]``; works in either step mode and leaves a running window alone
        :raises DataError: if the input cannot be run
        """
        self._check_input(x)
        if self.step_by_step or self.serial:
            return self.decode(self._run(x))
        # The trains of the last neurons are decoded before the readout, so that both executions agree to the bit.
        with self._naming_input(x):
            return self.net(x)

    def extra_repr(self) -> str:
        return f"time_steps={self.time_steps}, mode={self.config.mode}, execution={self.execution}"

    def _run(self, x: Tensor | Steps) -> object:
        """The output sequence for an input that is a :class:`Steps` or the same at each step."""
        with self._naming_input(x):
            if self.execution == "spikes" or self.step_by_step or self.serial:
                return Timeline(self.net, self.time_steps, self.step_by_step, self.serial).run_sequence((x,))
            y = self.net(x.mean if isinstance(x, Steps) else x)
        return tree_map(lambda v: v.expand(self.time_steps, *v.shape) if isinstance(v, Tensor) else v, y)

    def _decode(self, y_seq: object) -> object:
        if isinstance(y_seq, Tensor):
            check_steps(type(self).__name__, y_seq, self.time_steps)
        return mean_over_time(y_seq)

    def _check_input(self, x: object, time_axis: bool = False) -> None:
        if not isinstance(x, Tensor):
            raise DataError(f"the network takes one tensor, got {type(x).__name__}")
        dims = x.dim() if self.input_shape is None else len(self.input_shape) + time_axis
        if time_axis and (x.dim() != dims or x.dim() < 2 or x.shape[0] != self.time_steps):
            raise DataError(
                f"step mode 'm' needs an input [T={self.time_steps}, N, {self._sizes()}], got shape {list(x.shape)}. "
                "For one static input [N, ...] use snn.predict(x)"
            )
        if x.dim() != dims:
            raise DataError(
                f"the network needs an input [N, {self._sizes()}] (or of other sizes), got shape {list(x.shape)}. For "
                "a sequence [T, N, ...] call functional.set_step_mode(snn, 'm') first"
            )

    def _sizes(self) -> str:
        # Written out for errors alone: torch.compile, for which sizes may be symbols, cannot do it.
        return ", ".join(map(str, self.input_shape[1:])) if self.input_shape else "..."

    def _naming_input(self, x: Tensor | Steps) -> AbstractContextManager:
        x = x.mean if isinstance(x, Steps) else x
        return as_data_error(
            lambda: f"the network fails on an input [N, ...] of shape {list(x.shape)} ({x.dtype}, {x.device})"
        )

    def __setattr__(self, name: str, value: object) -> None:
        if name == "step_by_step":
            check_flag(type(self).__name__, name, value)
        begins_window = name in _WINDOW_DEPENDS_ON and getattr(self, name, value) != value
        super().__setattr__(name, value)
        if begins_window:
            self.reset()

    def _load_from_state_dict(self, *args: object) -> None:
        super()._load_from_state_dict(*args)
        self.reset()

    def _apply(self, fn: Callable[[Tensor], Tensor]) -> SpikingNetwork:  # .to(), .half(), ...
        self.reset()
        return super()._apply(fn)

    def __getstate__(self) -> dict[str, object]:
        # A window may hold an autograd graph, which cannot be copied.
        return super().__getstate__() | {"_memories": dict(self._memories_rv)}


def shape_of_sample(inputs: tuple) -> tuple:
    """
    :param inputs: what a model was called with: batches ``[N, ...]``, or lists of images
    :return: the same for one sample, on the device ``meta``, where tensors have a shape and no values
    """
    first = [x[:1] if isinstance(x, (Tensor, list)) else x for x in inputs]
    return tree_map(lambda x: torch.empty_like(x, device="meta") if isinstance(x, Tensor) else x, tuple(first))


def _same(x: Tensor, other: Tensor) -> bool:
    if x.dtype != other.dtype or x.device != other.device or x.shape != other.shape:
        return False
    return torch.equal(x, other) or bool(((x == other) | ((x != x) & (other != other))).all())  # a NaN is no change
