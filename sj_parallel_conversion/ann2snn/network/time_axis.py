"""Runs the graph with a time axis: real spike trains at every neuron, and an output for each step."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cached_property
from typing import Any, TypeGuard

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.conv import _ConvNd

from ...hooks import has_hooks
from ...neuron.spiking_activation import SpikingActivation
from ..graph.folded import ResidualAdd
from ..graph.maxpool import max_pool_steps
from ..graph.operations import affine_tail, factors, is_affine, is_max_pool, operation
from .integer_inputs import is_constant
from .options import STEP_BY_STEP

# A weight and a bias, and nothing else.
_SYNAPSES = {
    nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d,
}  # fmt: skip


def mean_over_time(x_seq: object) -> object:
    """
    ``[T, N, ...]`` -> ``[N, ...]``; what was expanded along time is read once, so that nothing is rounded. Integers
    that are the same at each step stay integers.
    """
    if not isinstance(x_seq, Tensor):
        return x_seq
    if x_seq.stride(0) == 0 or (not x_seq.is_floating_point() and is_constant(x_seq)):
        return x_seq[0]
    return x_seq.mean(0, dtype=None if x_seq.is_floating_point() else torch.get_default_dtype())


class Steps:
    """
    A value that has one form at each time-step.

    :param steps: the T forms
    :param mean: their mean, if it is known exactly
    :param rest: the form at a step at which no neuron fires, where serial neurons need it
    """

    def __init__(self, steps: list[Any], mean: Any = None, rest: Any = None) -> None:
        self._steps, self.rest = steps, rest
        if mean is not None:
            self.mean = mean

    @property
    def steps(self) -> list[Any]:
        """The forms."""
        return self._steps

    @cached_property
    def mean(self) -> Any:
        """What the value stands for; sizes and the like are the same at each step."""
        first = self.steps[0]
        return mean_over_time(torch.stack(self.steps)) if isinstance(first, Tensor) else first


class Symbols(Steps):
    """
    A spike train whose amplitude is in the weights that read it, so that these can meet the bare symbols.

    :param symbols: the train at each step, or a tuple of trains at each step
    :param worth: what a spike of each step counts for, T times the code's weight
    :param mean: the level that the train stands for
    :param rest: as of :class:`Steps`
    """

    def __init__(self, symbols: list[Any], worth: list[float], mean: Any, rest: Any) -> None:
        super().__init__([], mean, rest)
        self.symbols, self.worth = symbols, worth

    @cached_property
    def steps(self) -> list[Any]:
        """Each spike times what it counts for."""
        return [_times(s, worth) for s, worth in zip(self.symbols, self.worth, strict=True)]


def _times(value: Any, worth: float) -> Any:
    return value * worth if isinstance(value, Tensor) else type(value)(_times(v, worth) for v in value)


class TimeAxisRunner(fx.Interpreter):
    """
    Runs a converted graph so that its output has a time axis.

    Layers are affine, so the mean over time can be taken before them: with ``"spikes"`` they run once and not T times.
    Only what lies between the last neurons and the output runs at each step. Where amplitudes are folded into weights,
    a layer that runs at each step meets the bare symbols, as counters of spikes expect. What the step counts for is
    applied behind it.

    :param net: the converted graph
    :param time_steps: T
    :param execution: ``"spikes"``; ``"stepwise"``: all layers run at each step; ``"serial"``: as ``"stepwise"``, for
        neurons in their serial form, which read their input digit by digit. What reaches them without a spike (biases,
        an analogue input) is then injected once, at the first step
    """

    def __init__(self, net: fx.GraphModule, time_steps: int, execution: str = "spikes") -> None:
        super().__init__(net)
        self.extra_traceback = False  # errors go out as they are, without lines about the graph
        self._T, self._serial = time_steps, execution == "serial"
        if execution in STEP_BY_STEP:
            self._in_steps = {n for n in net.graph.nodes if is_affine(net, n) or is_max_pool(net, n)}
        else:
            self._in_steps = affine_tail(net)
        # Serial neurons read digits, of which a product's increments are none: there it is computed of decoded values.
        self._products = {n for n in net.graph.nodes if execution == "stepwise" and n not in self._in_steps
                          and factors(net, n)}  # fmt: skip

    def run_sequence(self, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        """
        :param inputs: for each input of the network a :class:`Steps`, or a value that is the same at each step
        :return: the outputs, with a time axis in front of each tensor
        """
        if self._serial:
            inputs = _at(inputs, lambda value: value.mean)
        return tuple(map(self._with_time, self.run(*inputs, enable_io_processing=False)))

    def run_node(self, node: fx.Node) -> object:
        """:return: a :class:`Steps` where the value has a form at each step, otherwise the value ``[N, ...]``"""
        if node.op in ("placeholder", "output"):
            return super().run_node(node)
        args, kwargs = self.fetch_args_kwargs_from_env(node)
        module = self.submodules.get(node.target) if node.op == "call_module" else None
        if isinstance(module, SpikingActivation):
            return self._fire(node, module, args[0])
        if isinstance(module, ResidualAdd):
            kwargs = {"overwrite": False}  # a value without a time axis serves all steps
        if node in self._products and _contains_steps((args, kwargs)):
            return self._product(node, args, kwargs)
        if node not in self._in_steps or not _contains_steps((args, kwargs)):
            return self._call(node, _at((args, kwargs), lambda value: value.mean))
        if is_max_pool(self.module, node):
            return self._pool(node, args[0], _at((args, kwargs), lambda value: value.mean))
        if isinstance(args[0], Symbols) and _is_synapse(module):
            return self._cross(module, args[0])
        moved = self._moved(node, args, kwargs)
        if moved is not None:
            return moved
        steps = [self._call(node, _at_step((args, kwargs), t, lambda value: value.steps)) for t in range(self._T)]
        return Steps(steps, rest=self._at_rest(node, args, kwargs))

    def _fire(self, node: fx.Node, site: SpikingActivation, x: Any) -> object:
        if self._serial:
            train = site.node(self._injected_once(x) if isinstance(x, Steps) else site.node.constant(x))
            return self._emitted(node, site, train, torch.zeros_like(train[0]))
        if not any(user in self._in_steps or user in self._products or user.op == "output" for user in node.users):
            return site(_at(x, lambda value: value.mean))
        # A neuron that was made serial alone takes the decoded value: it is not told what comes without a spike.
        if isinstance(x, Steps) and site.node.closed_form:
            train = site.node(torch.stack(x.steps))
        else:
            train = site.node(site.node.constant(_at(x, lambda value: value.mean)))
        return self._emitted(node, site, train)

    def _emitted(self, node: fx.Node, site: SpikingActivation, train: Tensor, rest: Tensor | None = None) -> Steps:
        neuron, level = site.node, site.node.decode(train)
        if not neuron.folded_output:
            return Steps(list(neuron.amplify(train)), level, rest)
        return Symbols(list(train), [self._T * w for w in neuron.code.weights(self._T)], level, rest)

    def _pool(self, node: fx.Node, x: Steps, at_mean: tuple[tuple[Any, ...], dict[str, Any]]) -> Steps:
        steps = x.symbols if isinstance(x, Symbols) else x.steps
        pooled = max_pool_steps(self.module, node, *at_mean, [*steps, x.rest] if self._serial else steps)
        rest, value = pooled[-1] if self._serial else None, self._call(node, at_mean)
        if isinstance(x, Symbols):
            return Symbols(pooled[: self._T], x.worth, value, rest)
        return Steps(pooled[: self._T], value, rest)

    def _product(self, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, object]) -> Steps:
        """
        The increments of a running product, ``A_t B_t - A_(t-1) B_(t-1)``, of the sums of what has come up to each
        step. A factor without a time axis has come whole at each step.
        """
        found: list[Steps] = []
        _at((args, kwargs), found.append)
        if len(found) == 1:
            steps = [self._call(node, _at_step((args, kwargs), t, lambda value: value.steps)) for t in range(self._T)]
            return Steps(steps)
        sums = {id(value): torch.stack(value.steps).cumsum(0) for value in found}
        running = [self._call(node, _at_step((args, kwargs), t, lambda v: sums[id(v)])) for t in range(self._T)]
        # their mean is the product of the two means, each of which is a sum over T
        changes = torch.stack(running).diff(dim=0, prepend=torch.zeros_like(running[0]).unsqueeze(0)) / self._T
        return Steps(list(changes), self._call(node, _at((args, kwargs), lambda value: value.mean)))

    def _moved(self, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, object]) -> Symbols | None:
        """The symbols that ``node`` moves, or joins from several trains; ``None`` if it does something else."""
        tensors: list[Symbols] = []
        fx.node.map_aggregate((args, kwargs), lambda v: tensors.append(v) if _holds_floats(v) else None)
        if not (operation(self.module, node).moves and all(isinstance(v, Symbols) for v in tensors)):
            return None
        symbols = [self._call(node, _at_step((args, kwargs), t, lambda v: v.symbols)) for t in range(self._T)]
        mean = self._call(node, _at((args, kwargs), lambda v: v.mean))
        return Symbols(symbols, tensors[0].worth, mean, self._at_rest(node, args, kwargs))

    def _cross(self, layer: nn.Linear | _ConvNd, x: Symbols) -> Steps:
        """What the synapses of ``layer`` make of bare symbols: its bias does not depend on what they count for."""
        synapses, bias = copy.copy(layer), layer.bias
        synapses._parameters = {**layer._parameters, "bias": None}
        if bias is not None and not isinstance(layer, nn.Linear):
            bias = bias.view(-1, *[1] * len(layer.kernel_size))

        def current(symbols: Tensor, worth: float) -> Tensor:
            y = synapses(symbols)
            return y * worth if bias is None else torch.add(bias, y, alpha=worth)

        steps = [current(s, worth) for s, worth in zip(x.symbols, x.worth, strict=True)]
        return Steps(steps, rest=current(x.rest, 1) if self._serial else None)

    def _at_rest(self, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, object]) -> object:
        return self._call(node, _at((args, kwargs), lambda value: value.rest)) if self._serial else None

    def _injected_once(self, x: Steps) -> Tensor:
        """Weighted digits carry most of their value in the first steps; biases that trickled in would come too late."""
        x_seq = torch.stack(x.steps) - x.rest
        x_seq[0] += self._T * x.rest
        return x_seq

    def _call(self, node: fx.Node, arguments: tuple[Any, ...]) -> Any:
        return getattr(self, node.op)(node.target, *arguments)

    def _with_time(self, value: object) -> object:
        if isinstance(value, Steps):
            return torch.stack(value.steps) if isinstance(value.steps[0], Tensor) else value.steps[0]
        return value.expand(self._T, *value.shape) if isinstance(value, Tensor) else value


def _at(arguments: object, pick: Callable[[Any], object]) -> Any:
    return fx.node.map_aggregate(arguments, lambda value: pick(value) if isinstance(value, Steps) else value)


def _at_step(arguments: object, t: int, forms: Callable[[Any], Any]) -> Any:
    """Of each value its form at step ``t``."""
    return _at(arguments, lambda value: forms(value)[t])


def _holds_floats(value: object) -> bool:
    return isinstance(value, Steps) or (isinstance(value, Tensor) and value.is_floating_point())


def _is_synapse(module: nn.Module | None) -> TypeGuard[nn.Linear | _ConvNd]:
    """Whether ``module`` is a weight and a bias, and nobody listens to what goes in and out."""
    return module is not None and type(module) in _SYNAPSES and not has_hooks(module)


def _contains_steps(arguments: object) -> bool:
    found: list[Any] = []
    _at(arguments, found.append)
    return bool(found)
