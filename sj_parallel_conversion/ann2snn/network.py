"""The converted network: run it step by step or all at once, decode, reset."""

from __future__ import annotations

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_map

from ..compat import MemoryModule
from ..errors import DataError
from . import graph
from .config import ConversionConfig, check_choice
from .sites import SpikingActivation
from .timeline import Steps, Timeline, mean_input, mean_over_time

EXECUTIONS = ("spikes", "packed")


class SpikingNetwork(MemoryModule):
    """
    A network of neurons that see the whole time window, in the graph of the ANN that it came from.

    Two step modes, as everywhere in SpikingJelly:

    - ``"s"`` (default): ``snn(x)`` with ``x`` ``[N, ...]`` returns one step of the output. The first call after a
      reset takes ``x`` as the input of the whole window; after T steps a new window begins.
    - ``"m"``: ``snn(x_seq)`` with ``x_seq`` ``[T, N, ...]`` returns the output sequence ``[T, N, ...]``.

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
        self.step_mode = "s"
        self.execution = "spikes"
        self.step_by_step = False
        self.register_memory("window_input", None)
        self.register_memory("window_output", None)
        self.register_memory("step", 0)

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

    def neurons(self) -> list[SpikingActivation]:
        """The places where neurons stand."""
        return [module for module in self.net.modules() if isinstance(module, SpikingActivation)]

    def single_step_forward(self, *inputs: Tensor) -> object:
        """
        :param inputs: the input ``[N, ...]`` of the whole window, the same at each call
        :return: the output of one step
        :raises DataError: if the input changed within a window
        """
        if self.step == 0:
            self.window_input = tuple(x.detach().clone() if isinstance(x, Tensor) else x for x in inputs)
            self.window_output = self._run(inputs)
        elif not _same(inputs, self.window_input):
            raise DataError(
                f"the input changed at step {self.step} of {self.time_steps}. In step mode 's' one input is shown "
                "during the whole window: call functional.reset_net(snn) before the next input, or, for an input that "
                "changes over time, functional.set_step_mode(snn, 'm') and give the sequence [T, N, ...]"
            )
        t, self.step = self.step, (self.step + 1) % self.time_steps
        # Copies, because evaluation loops add up the steps in place.
        return tree_map(lambda y_seq: y_seq[t].clone() if isinstance(y_seq, Tensor) else y_seq, self.window_output)

    def multi_step_forward(self, *inputs: Tensor) -> object:
        """
        :param inputs: ``x_seq`` ``[T, N, ...]``, which may differ from step to step
        :return: ``y_seq`` ``[T, N, ...]`` (or the model's dict or tuple of such)
        :raises DataError: if the first axis is not T
        """
        for x in inputs:
            if isinstance(x, Tensor) and (x.dim() < 2 or x.shape[0] != self.time_steps):
                raise DataError(
                    f"step mode 'm' needs an input [T={self.time_steps}, N, ...], got shape {list(x.shape)}. For one "
                    "static input [N, ...] use snn.predict(x)"
                )
        return self._run(tuple(Steps(list(x), mean_input(x)) if isinstance(x, Tensor) else x for x in inputs))

    def decode(self, y_seq: object) -> object:
        """
        :param y_seq: output sequence ``[T, N, ...]`` (or a dict or tuple of such)
        :return: ``[N, ...]``, the plain mean over time: the readout carries the code's weights
        """
        return tree_map(mean_over_time, y_seq)

    def predict(self, *inputs: Tensor) -> object:
        """
        :param inputs: ``[N, ...]``, shown at every step
        :return: the decoded output ``[N, ...]``; works in either step mode and leaves a running window alone
        """
        if self.step_by_step:
            return self.decode(self._run(inputs))
        # The trains of the last neurons are decoded before the readout, so that both executions agree to the bit.
        return self.net(*inputs)

    def extra_repr(self) -> str:
        return f"time_steps={self.time_steps}, mode={self.config.mode}, execution={self.execution}"

    def _run(self, inputs: tuple) -> object:
        """The output sequence for inputs that are a :class:`Steps` or the same at each step."""
        if self.execution == "spikes" or self.step_by_step:
            return Timeline(self.net, self.time_steps, self.step_by_step).run_sequence(inputs)
        y = self.net(*(x.mean if isinstance(x, Steps) else x for x in inputs))
        return tree_map(lambda v: v.expand(self.time_steps, *v.shape) if isinstance(v, Tensor) else v, y)


def shape_of_sample(inputs: tuple) -> tuple:
    """
    :param inputs: what a model was called with: batches ``[N, ...]``, or lists of images
    :return: the same for one sample, on the device ``meta``, where tensors have a shape and no values
    """
    first = [x[:1] if isinstance(x, (Tensor, list)) else x for x in inputs]
    return tree_map(lambda x: torch.empty_like(x, device="meta") if isinstance(x, Tensor) else x, tuple(first))


def _same(inputs: tuple, others: tuple) -> bool:
    return len(inputs) == len(others) and all(
        torch.equal(x, y) if isinstance(x, Tensor) and isinstance(y, Tensor) else x is y
        for x, y in zip(inputs, others, strict=True)
    )
