"""Converts one model and measures what came of it."""

from __future__ import annotations

import signal
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

import sj_parallel_conversion as sjpc

from .activation_calls import activation_calls, describe
from .entry import Batch, Entry, call, tensors_of

OPTIONS = {"mode": "css", "time_steps": 12, "threshold": "max", "calibration": "none", "show_progress": False}
SAMPLES = 2


@dataclass
class Line:
    """
    One line of the table.

    :param library: where the model comes from
    :param model: its name
    :param result: ``"whole"``: one conversion took it, and every activation call has a neuron; ``"incomplete"``: one
        conversion took it, and some have none; ``"parts"``: submodules were converted; ``"fails"``
    :param neurons: how many neuron layers there are
    :param calls: how many activation functions the ANN calls
    :param share: of the multiply-accumulates, how many became accumulates
    :param left: activation functions that have no neuron
    :param error: squared error relative to the ANN's outputs; of models in parts, over the outputs of the parts
    :param seconds: that the conversion took
    :param why: why the model was not converted as a whole
    """

    library: str
    model: str
    result: str = "fails"
    neurons: int = 0
    calls: int = 0
    share: float = 0.0
    left: str = ""
    error: float = float("nan")
    seconds: float = 0.0
    why: list[str] = field(default_factory=list)


def measure(entry: Entry, limit: int) -> Line:
    """
    :param entry: the model
    :param limit: seconds that it may take
    :return: its line of the table; what goes wrong stands in it
    """
    line = Line(entry.library, entry.name)
    try:
        with _limited(limit), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what they say stands in the table
            _measure(entry, line)
    except Exception as error:
        line.result = "fails"
        line.why.append(_first_line(error))
    return line


def _measure(entry: Entry, line: Line) -> None:
    torch.manual_seed(0)
    ann, batch, other = entry.build(), entry.batch(SAMPLES), entry.batch(SAMPLES)
    wake(ann, entry.batch(8))  # statistics of fewer samples amplify whatever is rounded
    before = activation_calls(ann, [lambda: call(ann, batch), lambda: call(ann, other)])
    line.calls = len(before)
    snn = _convert(ann, batch, entry.parts, line)
    run = snn if line.result == "parts" else snn.predict
    sites = snn.neurons()
    left = activation_calls(snn, [lambda: call(run, batch), lambda: call(run, other)], hidden=sites)
    line.neurons, line.left = len(sites), describe(left, before)
    line.share = sjpc.inspect(snn, show=False).share
    if line.result == "parts":
        line.error = _error_of_parts(ann, snn, batch)
    else:
        line.result = "incomplete" if left else "whole"
        with torch.no_grad():
            line.error = relative_error(call(run, batch), call(ann, batch))


def _convert(ann: nn.Module, batch: Batch, parts: tuple[str, ...], line: Line) -> nn.Module:
    """The model as a whole if that is possible, else the parts that are named, or all that can be converted."""
    if not parts:
        try:
            return _timed(ann, batch, None, line)
        except sjpc.SJPCError as error:
            line.why.append(_first_line(error))
    snn = _timed(ann, batch, list(parts or ["*"]), line)
    line.result = "parts"
    return snn


def _timed(ann: nn.Module, batch: Batch, submodules: list[str] | None, line: Line) -> nn.Module:
    start = time.perf_counter()
    try:
        snn = sjpc.ParallelConverter([batch], **OPTIONS).convert(ann, submodules=submodules)
    finally:
        line.seconds = time.perf_counter() - start
    snn.execution = "packed"  # the same values as the spikes, in less time
    return snn


@torch.no_grad()
def wake(model: nn.Module, batch: Batch) -> None:
    """
    :param model: what is zero or almost so in a fresh network is filled, and BatchNorms get the statistics of the
        batch; else there would be no error to measure
    :param batch: what the model is called with
    """
    model.eval()
    for parameter in model.parameters():
        if parameter.dim() > 1 and parameter.abs().max() <= 1e-5:  # a head, or ConvNeXt's layer scale
            parameter.normal_(std=0.1)
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
        norm.train()
    if norms:
        call(model, batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()


@torch.no_grad()
def relative_error(outputs: object, reference: object) -> float:
    """
    :param outputs: of the converted network
    :param reference: outputs of the ANN
    :return: squared error over all of them, relative to the reference
    """
    pairs = list(zip(tensors_of(outputs), tensors_of(reference), strict=True))
    error = sum((y - z).double().square().sum() for y, z in pairs)
    return float(error / sum(z.double().square().sum() for _, z in pairs))


@torch.no_grad()
def _error_of_parts(ann: nn.Module, snn: sjpc.PartlySpikingNetwork, batch: Batch) -> float:
    """Each part is given what the ANN's submodule gets, because the code around it may choose other boxes."""
    found: list[tuple[Tensor, ...]] = []
    handles = []
    for name, part in snn.parts.items():

        def compare(
            module: nn.Module, args: tuple, kwargs: dict, output: object, part: sjpc.SpikingNetwork = part
        ) -> None:
            # the code around may write to the output later
            found.append((part.predict(*args, **kwargs), tree_map(_copied, output)))

        handles.append(ann.get_submodule(name).register_forward_hook(compare, with_kwargs=True))
    try:
        call(ann, batch)
    finally:
        for handle in handles:
            handle.remove()
    return relative_error([outputs for outputs, _ in found], [reference for _, reference in found])


def _copied(x: object) -> object:
    return x.clone() if isinstance(x, Tensor) else x


@contextmanager
def _limited(seconds: int) -> Iterator[None]:
    """:raises TimeoutError: in the code inside, when the time is over"""

    def stop(number: int, frame: object) -> None:
        raise TimeoutError(f"took more than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _first_line(error: Exception) -> str:
    text = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {text}"
