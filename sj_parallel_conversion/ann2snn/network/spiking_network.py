"""The converted network: run it step by step or all at once, decode, reset."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, fx, nn

from ...compat import MemoryModule
from ...errors import ConfigError, DataError, as_data_error
from ...functional import amplify_frames, pack_frames
from ...kernels import BACKENDS
from ...neuron import SerialNode
from ...neuron.spiking_activation import SpikingActivation
from ...parameters import check_steps
from .. import graph
from ..config import ConversionConfig, check_choice
from ..data.inputs import Batch
from ..graph.signature import Signature
from .checkpoint import RecordedNetwork
from .integer_inputs import as_numbers, is_constant
from .options import EXECUTIONS, STEP_BY_STEP, NetworkOptions, common_value
from .origin import Origin, set_weights, weights_of
from .standing_for import StandingFor
from .time_axis import Steps, TimeAxisRunner, mean_over_time

_WINDOW_DEPENDS_ON = ("_step_mode", "_execution", "training")


class SpikingNetwork(NetworkOptions, StandingFor, RecordedNetwork, MemoryModule):
    """
    A network of neurons that see the whole time window, in the graph of the ANN that it came from.

    Two step modes, as everywhere in SpikingJelly:

    - ``"s"`` (default): ``snn(x)`` with ``x`` ``[N, ...]`` returns one step of the output. The first call after a
      reset takes ``x`` as the input of the whole window; after T steps a new window begins.
    - ``"m"``: ``snn(x_seq)`` with ``x_seq`` ``[T, N, ...]`` returns the output sequence ``[T, N, ...]``.

    A window of step mode ``"s"`` is computed at its first call. Loading a state dict, moving or copying the network,
    and a change of ``step_mode``, ``execution`` or ``training`` begin a new one. Weights that are changed wait for it.

    :param net: the graph, with a :class:`SpikingActivation` in the place of each activation
    :param config: the options of the conversion
    :param signature: what it takes and returns
    :param graded_input: whether it is a part of a network whose input comes from other layers of it
    :param origin: where its weights come from; ``None``: not known
    """

    _execution = "spikes"
    step: int  # of the window that runs, which step mode "s" gives next

    def __init__(
        self,
        net: fx.GraphModule,
        config: ConversionConfig,
        signature: Signature,
        graded_input: bool = False,
        origin: Origin | None = None,
    ) -> None:
        super().__init__()
        self.net = net
        self.config = config
        self.signature = signature
        self.graded_input = graded_input
        self.origin = origin
        # A graph's functions know the module that they stand in until the graph is pickled.
        self.operation_names = [graph.operation_name(node) for node in net.graph.nodes]
        self.execution = "spikes"
        self.backend = config.backend
        self.register_memory("window_input", None)
        self.register_memory("window_output", None)
        self.register_memory("step", 0)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one sample of the calibration data, ``[1, ...]``; of the first input, if there are several."""
        return tuple(self.signature.sample.tensors[0].shape)

    @property
    def time_steps(self) -> int:
        """T, the length of the time window."""
        return self.config.time_steps

    @property
    def execution(self) -> str:
        """
        How the network runs. All executions but the last give the same results, up to the rounding of floats.

        - ``"spikes"`` (default): every neuron emits its train ``[T, N, ...]``, which monitors see. Layers run once, on
          the decoded trains.
        - ``"packed"``: one tensor ``[N, ...]`` of decoded levels passes and no train. Time and memory do not depend on
          T. The results are those of ``"spikes"`` to the bit.
        - ``"stepwise"``: layers run at each of the T steps, as hardware would run them. The slow reference.
        - ``"serial"``: as ``"stepwise"``, and each neuron emits one digit at each step, from the digits that have come
          so far. For ``mode="spikepack"``, which answers as before, and for ``mode="css"``, in which each neuron may
          differ by one level.

        Setting it begins a new window. A neuron can be made serial alone (``site.node.serial = True``); it stays so
        until the network leaves ``"serial"``.
        """
        return self._execution

    @execution.setter
    def execution(self, value: str) -> None:
        """:raises ConfigError: as :meth:`check_execution`"""
        self.check_execution(value)
        for site in self.neurons():
            site.packed = value == "packed"
            if "serial" in (value, self._execution) and isinstance(site.node, SerialNode):
                site.node.serial = value == "serial"
        self._execution = value

    def check_execution(self, value: str) -> None:
        """
        :param value: a value for :attr:`execution`
        :raises ConfigError: if it is unknown, or is ``"serial"`` and a neuron has no serial form: those of
            ``mode="parallel"`` have none, nor have those of ``mode="css"`` that apply an activation
        """
        check_choice("execution", value, list(EXECUTIONS))
        if value != "serial":
            return
        for site in self.neurons():
            if not isinstance(site.node, SerialNode):
                raise ConfigError(
                    f"mode={self.config.mode!r} has no serial form: its neurons need the whole window. Convert with "
                    "mode='spikepack' or 'css'"
                )
            site.node.check_serial()

    @property
    def backend(self) -> str:
        """
        What the neurons run on: ``"torch"`` or ``"cupy"``; ``"mixed"`` if they were set one by one. Setting it sets all
        of them. If a neuron refuses it, ConfigError is raised and all keep what they had.
        """
        return common_value([site.node.backend for site in self.neurons()])

    @backend.setter
    def backend(self, value: str) -> None:
        """:raises ConfigError: as :meth:`check_backend`"""
        self.check_backend(value)
        for site in self.neurons():
            site.node.backend = value

    def check_backend(self, value: str) -> None:
        """:raises ConfigError: if ``value`` is unknown, cannot be used here, or a neuron cannot run on it"""
        for site in self.neurons():
            site.node.check_backend(value)

    @property
    def supported_backends(self) -> tuple[str, ...]:
        """What :attr:`backend` can be; SpikingJelly 0.0.0.0.14's ``functional.set_backend`` asks for it."""
        return BACKENDS

    def neurons(self) -> list[SpikingActivation]:
        """The places where neurons stand."""
        return [module for module in self.net.modules() if isinstance(module, SpikingActivation)]

    def load_ann(self, ann: nn.Module) -> SpikingNetwork:
        """
        Take the weights of a retrained ANN. Neurons keep their thresholds, shifts and amplitudes, and the changes that
        ``calibration="weights"`` and distillation have made to the weights are added to the new ones. The ANN is
        captured on random inputs; no data are needed.

        :param ann: of the architecture that was converted
        :return: this network, changed in place
        :raises ConversionError: if its architecture, or a trained quantiser of it, is another, or the network's origin
            is not known; nothing is changed then. The message says what differs
        """
        set_weights(self, weights_of(self, ann))
        return self

    def requires_grad_(self, requires_grad: bool = True) -> SpikingNetwork:
        """As on any module. Parameters of neurons that folding has made ineffective never ask for a gradient."""
        super().requires_grad_(requires_grad)
        for site in self.neurons():
            site.node.freeze_folded()
        return self

    def single_step_forward(self, *args: object, **kwargs: object) -> object:
        """
        :param args: the input ``[N, ...]`` of the whole window, the same at each call; what the ANN's forward takes
        :param kwargs: the same, by name
        :return: the output of one step
        :raises DataError: if the input changed within a window, or cannot be run
        """
        batch = self.signature.batch(args, kwargs)
        if self.step == 0:
            self.window_output = self._run(batch, batch.tensors)
            self.window_input = tuple(x.detach().clone() for x in batch.tensors)
        elif not all(map(_same, batch.tensors, self.window_input)):
            raise DataError(
                f"the input changed at step {self.step} of {self.time_steps}. In step mode 's' one input is shown "
                "during the whole window: call functional.reset_net(snn) before the next input, or, for an input that "
                "changes over time, functional.set_step_mode(snn, 'm') and give the sequence [T, N, ...]"
            )
        t, self.step = self.step, (self.step + 1) % self.time_steps
        # Copies, because evaluation loops add up the steps in place.
        return self.signature.build(tuple(y[t].clone() if isinstance(y, Tensor) else y for y in self.window_output))

    def multi_step_forward(self, *args: object, **kwargs: object) -> object:
        """
        :param args: ``[T, N, ...]``, which may differ from step to step; what the ANN's forward takes, each tensor with
            a time axis in front. The network answers for their mean, in which frame t weighs ``frame_tau^(T-t)``
        :param kwargs: the same, by name
        :return: ``y_seq`` ``[T, N, ...]`` (or the ANN's dict or tuple of such)
        :raises DataError: if the first axis is not T, the input cannot be run, or token ids change over time
        """
        batch = self.signature.sequence(args, kwargs, self.time_steps)
        return self.signature.build(self._run(batch, tuple(map(self._steps, range(len(batch.tensors)), batch.tensors))))

    def _steps(self, number: int, x_seq: Tensor) -> Tensor | Steps:
        """An input with a time axis, as the graph takes it; integers that stay the same remain integers."""
        if not x_seq.is_floating_point():
            if is_constant(x_seq):
                return x_seq[0]
            x_seq = as_numbers(self.net, number, self.signature.form.tensor_names[number], x_seq)
        tau = self.config.frame_tau
        return Steps(amplify_frames(x_seq, tau), pack_frames(x_seq, tau))

    def decode(self, y_seq: object) -> object:
        """
        :param y_seq: output sequence ``[T, N, ...]`` (or a dict or tuple of such)
        :return: ``[N, ...]``, the plain mean over time: the readout carries the code's weights
        :raises DataError: if the first axis is not T
        """
        return self._decode(y_seq) if isinstance(y_seq, Tensor) else self.signature.map_outputs(self._decode, y_seq)

    def predict(self, *args: object, **kwargs: object) -> object:
        """
        :param args: ``[N, ...]``, shown at every step; what the ANN's forward takes
        :param kwargs: the same, by name
        :return: the decoded output ``[N, ...]`` in the ANN's types; works in either step mode and leaves a running
            window alone
        :raises DataError: if the input cannot be run
        """
        batch = self.signature.batch(args, kwargs)
        if self.execution in STEP_BY_STEP:
            return self.decode(self.signature.build(self._run(batch, batch.tensors)))
        # The trains of the last neurons are decoded before the readout, so that both executions agree to the bit.
        with self._naming_input(batch):
            return self.signature.build(self.net(*batch.tensors))

    def _answer(self, *args: object, **kwargs: object) -> object:
        return self.predict(*args, **kwargs)

    def extra_repr(self) -> str:
        """What ``print`` shows of it."""
        return f"time_steps={self.time_steps}, mode={self.config.mode}, execution={self.execution}"

    def _run(self, batch: Batch, inputs: tuple[Tensor | Steps, ...]) -> tuple[object, ...]:
        """The tensors of the output sequence for inputs that are :class:`Steps` or the same at each step."""
        with self._naming_input(batch):
            if self.execution != "packed":
                return TimeAxisRunner(self.net, self.time_steps, self.execution).run_sequence(inputs)
            y = self.net(*(x.mean if isinstance(x, Steps) else x for x in inputs))
        return tuple(v.expand(self.time_steps, *v.shape) if isinstance(v, Tensor) else v for v in y)

    def _decode(self, y_seq: object) -> object:
        if isinstance(y_seq, Tensor):
            check_steps(type(self).__name__, y_seq, self.time_steps)
        return mean_over_time(y_seq)

    def _naming_input(self, batch: Batch) -> AbstractContextManager[object]:
        if torch.compiler.is_dynamo_compiling():  # torch 2.6 compiles no context manager that is written as a generator
            return nullcontext()

        def explain() -> str:
            shapes = ", ".join(f"{list(x.shape)} ({x.dtype}, {x.device})" for x in batch.tensors)
            return f"the network fails on an input of shape {shapes}"

        return as_data_error(explain)

    def __setattr__(self, name: str, value: object) -> None:
        begins_window = name in _WINDOW_DEPENDS_ON and getattr(self, name, value) != value
        super().__setattr__(name, value)
        if begins_window:
            self.reset()

    def _load_from_state_dict(self, *args: Any) -> None:
        super()._load_from_state_dict(*args)
        self.origin = None  # what the calibration of a checkpoint did to its weights is not known
        self.reset()

    def _apply(self, *args: object, **kwargs: object) -> SpikingNetwork:  # .to(), .half(), .to_empty(), ...
        self.reset()  # so that nothing is left to do for MemoryModule._apply, which lacks torch's second argument
        return super(MemoryModule, self)._apply(*args, **kwargs)

    def __getstate__(self) -> dict[str, object]:
        # A window may hold an autograd graph, which cannot be copied.
        return super().__getstate__() | {"_memories": dict(self._memories_rv)}


def _same(x: Tensor, other: Tensor) -> bool:
    if x.dtype != other.dtype or x.device != other.device or x.shape != other.shape:
        return False
    return torch.equal(x, other) or bool(((x == other) | ((x != x) & (other != other))).all())  # a NaN is no change
