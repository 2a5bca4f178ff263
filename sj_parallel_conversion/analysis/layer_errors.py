"""Where a converted network loses accuracy: the error at each neuron, and what it is made of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from .. import ranks
from ..ann2snn.network.parts import PartlySpikingNetwork
from ..ann2snn.network.spiking_network import SpikingNetwork
from ..errors import ConversionError
from ..torch_compat import tree_leaves
from .answers import Network, check_converted
from .neuron_errors import Sums, sums_of
from .reference import Pair, pairs_of
from .table import aligned

_SHARES = ("clipped", "silent", "rate")


@dataclass(frozen=True)
class LayerError:
    """
    The error at one neuron. Errors are sums of squares, relative to the sum of squares of the ANN's activation (of its
    input, for ``before``).

    :param name: of the neuron's layer, as :func:`inspect` calls it; ``"(output)"`` for the network's output
    :param before: of the neuron's input
    :param after: of what its spikes stand for
    :param inherited: what the ANN's own layers and activation make of the errors of the neurons before this one
    :param clipping: of values beyond the largest level
    :param rounding: between a value and its level, the neuron's amplitude included
    :param added: ``after - inherited``: what this layer adds. Negative where its calibration takes errors back
    :param clipped: share of the values that are clipped
    :param silent: share of the values for which the neuron does not fire
    :param rate: spikes of a neuron for each time-step, on average
    """

    name: str
    before: float
    after: float
    inherited: float
    clipping: float
    rounding: float
    added: float
    clipped: float
    silent: float
    rate: float


@dataclass(frozen=True)
class LayerErrors:
    """
    What :func:`layer_errors` found. ``print`` shows a table, the layer that adds most error first.

    :param rows: in the order in which the neurons run; the last is the network's output
    """

    rows: tuple[LayerError, ...]

    @property
    def worst(self) -> tuple[LayerError, ...]:
        """The rows, the one that adds most error first."""
        return tuple(sorted(self.rows, key=lambda row: -row.added))

    def __str__(self) -> str:
        head = tuple(f.name for f in fields(LayerError))
        lines = [head, *(tuple(_cell(row, name) for name in head) for row in self.worst)]
        return "\n".join(aligned(lines, left=1))


def _cell(row: LayerError, name: str) -> str:
    value = getattr(row, name)
    return value if name == "name" else f"{value:.1%}" if name in _SHARES else f"{value:.2g}"


@torch.no_grad()
def layer_errors(
    snn: SpikingNetwork | PartlySpikingNetwork,
    ann: nn.Module,
    dataloader: Iterable[Any],
    show_progress: bool = True,
    distributed: bool | None = None,
) -> LayerErrors:
    """
    Run a converted network and its ANN side by side, and find at which layers they part.

    :param snn: what ``convert`` returned
    :param ann: the ANN that it was made of
    :param dataloader: inputs, as a conversion takes them; labels are not used
    :param show_progress: whether progress bars are drawn
    :param distributed: whether all processes of ``torch.distributed`` do this together, each with its share of the
        data, and get the result for all of them. ``None``: if a process group is initialised
    :return: the errors of all neurons. Each part of a model that is converted in parts is given what the ANN's
        submodule gets
    :raises DataError: if ``snn`` is no converted network in floats, or the data cannot be used
    :raises ConversionError: if ``ann`` is another one
    """
    check_converted("layer_errors", snn)
    rows: list[LayerError] = []
    with ranks.together(distributed, "layer_errors"):
        for pair in pairs_of(snn, ann, dataloader, show_progress):
            rows += _errors_of(pair)
    return LayerErrors(tuple(rows))


def verify(
    snn: SpikingNetwork | PartlySpikingNetwork,
    ann: nn.Module,
    x: object,
    rtol: float = 0.05,
    atol: float | None = None,
) -> None:
    """
    Check that a converted network gives the ANN's outputs: ``|y - y_ann| <= atol + rtol * |y_ann|`` for all values.

    :param snn: what ``convert`` returned
    :param ann: the ANN that it was made of
    :param x: a batch, as a loader gives it
    :param rtol: relative tolerance
    :param atol: absolute tolerance; ``None``: ``rtol`` times the largest magnitude of the output
    :raises ConversionError: if an output is further off; the message has the table of :func:`layer_errors`
    """
    outputs = []
    for network in (Network(snn), Network(ann)):
        with torch.no_grad(), network.evaluating():
            answer = network.answer(network.call_of(x, 0))
        outputs.append([y for y in tree_leaves(answer) if isinstance(y, Tensor) and y.is_floating_point()])
    for i, (y, expected) in enumerate(zip(*outputs, strict=True)):
        expected = expected.to(y)
        allowed = rtol * expected.abs() + (rtol * expected.abs().max() if atol is None else atol)
        beyond = ~((y - expected).abs() <= allowed)
        if beyond.any():
            raise ConversionError(
                f"output {i} is further from the ANN's than rtol={rtol} and atol={atol} allow at {int(beyond.sum()):,} "
                f"of {beyond.numel():,} values, by up to {float((y - expected).abs().max()):.4g}. The errors by layer, "
                f"the one that adds most first:\n{layer_errors(snn, ann, [x], show_progress=False, distributed=False)}"
            )


def _errors_of(pair: Pair) -> Iterator[LayerError]:
    nodes = zip(pair.snn.net.graph.nodes, pair.snn.operation_names, strict=True)
    shown = {node.target: name for node, name in nodes if node.op == "call_module"}
    for name, sums in sums_of(pair).items():
        yield _row(pair.prefix + shown.get(name, name), sums)


def _row(name: str, sums: Sums) -> LayerError:
    def share(part: str, whole: str) -> float:
        total, found = sums.get(whole, 0.0), sums.get(part, 0.0)
        return found / total if total else float("inf") if found else 0.0

    after, inherited = share("after", "target"), share("inherited", "target")
    return LayerError(
        name=name,
        before=share("before", "input"),
        after=after,
        inherited=inherited,
        clipping=share("clipping", "target"),
        rounding=share("rounding", "target"),
        added=after - inherited,
        clipped=share("clipped", "count"),
        silent=share("silent", "count"),
        rate=share("spikes", "digits"),
    )
