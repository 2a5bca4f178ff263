"""Spikes, synaptic operations, memory accesses and energy of a converted network, from its real trains."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, fields, replace
from typing import Any

import torch
from tqdm import tqdm

from .. import ranks
from ..ann2snn.data.inputs import Batch, Call
from ..ann2snn.data.source import checked
from ..ann2snn.graph.signals import CONSTANT, NODE, WIRE, Signals
from ..ann2snn.network.parts import PartlySpikingNetwork
from ..ann2snn.network.spiking_network import SpikingNetwork
from ..errors import DataError
from ..neuron.spiking_activation import SpikingActivation
from .answers import Network, check_converted
from .energy import checked_device
from .events import Events, event_counter
from .macs import count_macs, record_calls, samples_in
from .table import aligned

_SAMPLES = 16  # at once: the trains of a layer are kept


@dataclass(frozen=True)
class LayerOperations:
    """
    One layer or neuron. All counts are means for one sample and its window of T steps.

    :param name: as :func:`inspect` calls it
    :param operation: class of the module, or name of the function
    :param neurons: values for which a neuron stands
    :param spikes: that they emit
    :param received: values other than 0 that reach a layer
    :param synops: synaptic operations: weights that these values meet. Each is one accumulate
    :param macs: multiply-accumulates that remain: the layer receives something else than spikes
    :param ann_macs: multiply-accumulates of the ANN
    """

    name: str
    operation: str
    neurons: float = 0.0
    spikes: float = 0.0
    received: float = 0.0
    synops: float = 0.0
    macs: float = 0.0
    ann_macs: float = 0.0


@dataclass(frozen=True)
class OperationCount:
    """
    What :func:`count_operations` found. ``print`` shows a table.

    :param rows: the layers and neurons in the order in which they run
    :param time_steps: T
    :param device: picojoules of each operation
    """

    rows: tuple[LayerOperations, ...]
    time_steps: int
    device: dict[str, float]

    def total(self, what: str) -> float:
        """:param what: a count of :class:`LayerOperations`. :return: its sum over all rows"""
        return sum(getattr(row, what) for row in self.rows)

    @property
    def firing_rate(self) -> float:
        """Spikes of a neuron for each time-step, on average."""
        return self.total("spikes") / max(self.total("neurons") * self.time_steps, 1)

    @property
    def accesses(self) -> float:
        """
        Memory accesses without any reuse: a synaptic operation reads a weight, and reads and writes a membrane; a
        multiply-accumulate that remains reads a weight and an input.
        """
        return 3 * self.total("synops") + 2 * self.total("macs")

    @property
    def ann_accesses(self) -> float:
        """Those of the ANN, likewise without reuse: a weight and an input for each multiply-accumulate."""
        return 2 * self.total("ann_macs")

    @property
    def energy(self) -> dict[str, float]:
        """
        Picojoules of one sample: of the arithmetic for ``"snn"`` and ``"ann"`` in 32-bit floats, ``"snn_int8"`` and
        ``"ann_int8"`` with weights of 8 bits; and the same with ``"_memory"`` for accesses without reuse.
        """
        cost, synops, macs, ann = self.device, self.total("synops"), self.total("macs"), self.total("ann_macs")
        word = cost["access"]
        return {
            "snn": synops * cost["accumulate"] + macs * cost["mac"],
            "snn_int8": synops * cost["accumulate_int8"] + macs * cost["mac_int8"],
            "ann": ann * cost["mac"],
            "ann_int8": ann * cost["mac_int8"],
            "snn_memory": self.accesses * word,
            # a weight of 8 bits is a quarter of a word; a membrane stays a word
            "snn_int8_memory": (2.25 * synops + 0.5 * macs) * word,
            "ann_memory": self.ann_accesses * word,
            "ann_int8_memory": self.ann_accesses * word / 4,
        }

    def __str__(self) -> str:
        head = tuple(f.name for f in fields(LayerOperations))
        lines = [head, *(tuple(_cell(getattr(row, name)) for name in head) for row in self.rows)]
        lines.append(("total", "", *(_cell(self.total(name)) for name in head[2:])))
        nj = {name: f"{value / 1000:,.1f} nJ" for name, value in self.energy.items()}
        return "\n".join(
            [
                *aligned(lines, left=2),
                f"firing rate: {self.firing_rate:.2%} at each of T = {self.time_steps} steps",
                f"arithmetic of a sample, floats: {nj['snn']}, the ANN {nj['ann']}",
                f"with 8-bit weights: {nj['snn_int8']}, the ANN {nj['ann_int8']}",
                f"memory without reuse, floats: {nj['snn_memory']}, the ANN {nj['ann_memory']}",
                f"with 8-bit weights: {nj['snn_int8_memory']}, the ANN {nj['ann_int8_memory']}",
            ]
        )


def _cell(value: object) -> str:
    return value if isinstance(value, str) else f"{value:,.0f}" if value else ""


@torch.no_grad()
def count_operations(
    snn: SpikingNetwork | PartlySpikingNetwork,
    dataloader: Iterable[Any],
    device: Mapping[str, float] | None = None,
    show_progress: bool = True,
    distributed: bool | None = None,
) -> OperationCount:
    """
    Count what a converted network does, from the trains of its neurons on real inputs.

    A synaptic operation is one weight that meets one value other than 0 at one step. At the borders of a map, and with
    strides and groups, an input meets fewer weights; that is counted exactly. In every code a spike costs one
    accumulate: the weight of a step is a shift, and the sign of a ternary spike makes a subtraction of it. What average
    pooling or an addition makes of several spikes at a step is one value.

    :param snn: what ``convert`` returned
    :param dataloader: inputs, as a conversion takes them; labels are not used
    :param device: picojoules of an operation by name, see :data:`~sj_parallel_conversion.analysis.energy.HOROWITZ_45NM`
    :param show_progress: whether a progress bar is drawn
    :param distributed: whether all processes of ``torch.distributed`` do this together, each with its share of the
        data, and get the result for all of them. ``None``: if a process group is initialised
    :return: counts for one sample on average, and their energy
    :raises DataError: if ``snn`` is no converted network in floats, or a batch cannot be used
    :raises ConfigError: if ``device`` cannot be used
    """
    check_converted("count_operations", snn)
    totals: dict[tuple[str, str], list[float]] = {}
    costs, samples = checked_device(device), 0
    network = Network(snn)
    with ranks.together(distributed, "count_operations"), network.evaluating():
        hidden = not (show_progress and ranks.leads())
        batches = tqdm(checked(dataloader), desc="count operations", disable=hidden, leave=False)
        for index, batch in enumerate(batches):
            call = network.call_of(batch, index)
            samples += samples_in(call)
            for row in _rows_of_call(snn, call):
                _add(totals, (row.name, row.operation), astuple(row)[2:])
        found, totals = ranks.objects((totals, samples)), {}
    samples = sum(theirs for _, theirs in found)
    for key, values in (pair for theirs, _ in found for pair in theirs.items()):
        _add(totals, key, values)
    if not samples:
        raise DataError("dataloader is empty: count_operations needs at least one batch")
    rows = tuple(LayerOperations(*key, *(value / samples for value in values)) for key, values in totals.items())
    return OperationCount(rows, snn.time_steps, costs)


def _add(totals: dict[tuple[str, str], list[float]], key: tuple[str, str], values: Sequence[float]) -> None:
    totals[key] = [old + new for old, new in zip(totals.get(key, [0.0] * len(values)), values, strict=True)]


def _rows_of_call(snn: SpikingNetwork | PartlySpikingNetwork, call: Call) -> Iterator[LayerOperations]:
    if isinstance(snn, SpikingNetwork):
        yield from _rows(snn, snn.signature.batch(*call))
        return
    calls = record_calls(snn, call)
    rest: float = calls.total
    for name, part in snn.parts.items():
        for batch in calls.inputs.get(name, []):
            for row in _rows(part, batch):
                rest -= row.ann_macs
                yield replace(row, name=f"{name}.{row.name}")
    for name, macs in calls.outside.items():
        rest -= macs
        yield LayerOperations(name, type(snn.model.get_submodule(name)).__name__, macs=macs, ann_macs=macs)
    if rest:
        yield LayerOperations("(other operations)", "", macs=rest, ann_macs=rest)


def _rows(snn: SpikingNetwork, batch: Batch) -> Iterator[LayerOperations]:
    sites = {name for name, module in snn.net.named_modules() if isinstance(module, SpikingActivation)}
    signals = Signals(snn.net, sites, snn.graded_input)
    macs = count_macs(snn, [batch])
    parts = [batch] if snn.signature.sizes.fixed_batch else batch.split(_SAMPLES)
    counter = event_counter(snn, signals)
    for part in parts:
        counter.run(*part.clone().tensors)
    for (node, kind), name in zip(signals.kinds.items(), snn.operation_names, strict=True):
        if kind in (WIRE, CONSTANT):
            continue
        events = counter.events.get(node, Events())
        left = 0 if node in counter.layers | counter.products else macs[node]
        counts = (events.neurons, events.spikes, events.received, events.synops, left, macs[node])
        if any(counts):
            operation = (
                type(snn.net.get_submodule(node.target).node).__name__ if kind == NODE else signals.operation(node)
            )
            yield LayerOperations(name, operation, *counts)
