"""Layer by layer: what receives spikes, what stays analogue, and how many multiply-accumulates became accumulates."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..ann2snn.data.inputs import Batch, Call, placement
from ..ann2snn.graph.signals import (
    ANALOGUE,
    CONSTANT,
    INPUT,
    KEPT,
    LAYER,
    NODE,
    NORMALISATION,
    PRODUCT,
    SPIKES,
    WIRE,
    Signals,
)
from ..ann2snn.network.parts import PartlySpikingNetwork
from ..ann2snn.network.spiking_network import SpikingNetwork
from ..errors import DataError
from ..neuron.spiking_activation import SpikingActivation
from ..torch_compat import tree_map
from .answers import check_converted
from .macs import count_macs, record_calls, samples_in
from .table import aligned


@dataclass(frozen=True)
class Row:
    """
    A layer, a neuron or an operation.

    :param name: its name in the ANN
    :param kind: ``"node"``: a spiking neuron. ``"layer"``: a synapse. ``"product"``: of two values that are made of
        spikes. ``"pooling"``. ``"scale"``: part of the neurons' input, such as a BatchNorm that is not folded.
        ``"normalisation"``: a function of a group of decoded values. ``"analogue"``. ``"kept"``: by the option ``keep``
    :param operation: class of the module, or name of the function
    :param receives: what comes in: ``"spikes"``, ``"input"`` (the network's), ``"current"`` (a layer's graded output),
        ``"analogue"``, or several of them
    :param macs: multiply-accumulates for one sample
    :param v_threshold: smallest and largest threshold of a node
    """

    name: str
    kind: str
    operation: str
    receives: tuple[str, ...]
    macs: int
    v_threshold: tuple[float, float] | None = None

    @property
    def spikes_in(self) -> bool:
        """Whether spikes come in, and nothing else."""
        return self.receives == (SPIKES,)

    @property
    def cells(self) -> tuple[str, ...]:
        """The row of the printed table."""
        low, high = self.v_threshold or (None, None)
        threshold = "" if low is None else f"{low:.4g}" if low == high else f"{low:.4g} .. {high:.4g}"
        return (
            self.name, self.kind, self.operation, " + ".join(self.receives), threshold,
            f"{self.macs:,}" if self.macs else "",
        )  # fmt: skip


@dataclass(frozen=True)
class Inspection:
    """
    What :func:`inspect` found. ``print`` shows a table.

    :param rows: every layer, neuron, pooling and analogue operation, in the order in which they run
    """

    rows: tuple[Row, ...]

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the ANN for one sample."""
        return sum(row.macs for row in self.rows)

    @property
    def input_macs(self) -> int:
        """Those of the layers that receive the network's input and nothing else."""
        return sum(row.macs for row in self.rows if row.kind == LAYER and row.receives == (INPUT,))

    @property
    def accumulates(self) -> int:
        """Those that became accumulates: products of spikes, and the layers that receive spikes and nothing else."""
        return sum(row.macs for row in self.rows if row.kind == PRODUCT or (row.kind == LAYER and row.spikes_in))

    @property
    def share(self) -> float:
        """The share of the multiply-accumulates that became accumulates, 0 to 1."""
        return self.accumulates / self.macs if self.macs else 0.0

    @property
    def share_after_input(self) -> float:
        """The same, of the multiply-accumulates after the layers that receive the network's input; 1 if none are."""
        after = self.macs - self.input_macs
        return self.accumulates / after if after else 1.0

    @property
    def analogue(self) -> tuple[Row, ...]:
        """The operations that stayed analogue."""
        return tuple(row for row in self.rows if row.kind == ANALOGUE)

    @property
    def normalisations(self) -> tuple[Row, ...]:
        """The functions of groups of decoded values, such as a softmax."""
        return tuple(row for row in self.rows if row.kind == NORMALISATION)

    @property
    def kept(self) -> tuple[Row, ...]:
        """The operations that stayed as they are because ``keep`` names them."""
        return tuple(row for row in self.rows if row.kind == KEPT)

    @property
    def graded(self) -> tuple[Row, ...]:
        """The layers that receive graded values other than the network's input."""
        return tuple(r for r in self.rows if r.kind == LAYER and r.receives != (INPUT,) and not r.spikes_in)

    def __str__(self) -> str:
        header = ("name", "kind", "operation", "receives", "threshold", "MACs")
        lines = [header, *(row.cells for row in self.rows)]
        table = aligned(lines, left=len(header))
        table.insert(1, "-" * max(map(len, table)))
        return "\n".join([*table, *self._totals()])

    def _totals(self) -> Iterator[str]:
        yield (
            f"{self.macs:,} multiply-accumulates a sample, {self.share:.1%} of which became accumulates "
            f"({self.share_after_input:.1%} of those after the network's input), "
            f"{len(self.normalisations)} normalisations"
        )
        for what, rows in (
            ("operations that stay analogue", self.analogue),
            ("operations that are kept as in the ANN", self.kept),
            ("layers that receive graded values", self.graded),
        ):
            if rows:
                yield f"{what}: {', '.join(row.name for row in rows)}"


def inspect(
    snn: SpikingNetwork | PartlySpikingNetwork, *inputs: object, show: bool = True, **named: object
) -> Inspection:
    """
    What became of each layer of the ANN.

    A layer's multiply-accumulates count as accumulates if it receives nothing but spikes: values that come from neurons
    through reshaping, concatenation, addition, resampling and pooling, which pass each spike on with a fixed weight.
    A layer that receives another layer's output, or that of an analogue operation, multiplies. Of a model that is
    converted in parts, the layers outside of them are listed as analogue; other operations outside are not seen.

    :param snn: what :meth:`ParallelConverter.convert` returned
    :param inputs: an input of ``snn`` to count operations with; without it one sample of the shape of the calibration
        data is used
    :param show: whether the table is printed
    :param named: inputs by name
    :return: the rows of the table, and totals
    :raises DataError: if ``snn`` is not a converted network, or cannot take the input
    """
    check_converted("inspect", snn)
    call = Call(inputs, named)
    if isinstance(snn, PartlySpikingNetwork):
        call = call if inputs or named else _sample(snn)
        size, rows = samples_in(call), _partly(snn, call)
    else:
        batch = snn.signature.batch(*call) if inputs or named else snn.signature.zeros(*placement(snn, None))
        size, rows = batch.size, _rows(snn, [batch])
    inspection = Inspection(tuple(replace(row, macs=row.macs // size) for row in rows))
    if show:
        print(inspection)
    return inspection


def _rows(snn: SpikingNetwork, calls: list[Batch]) -> Iterator[Row]:
    neurons = {name for name, module in snn.net.named_modules() if isinstance(module, SpikingActivation)}
    signals = Signals(snn.net, neurons, snn.graded_input)
    macs = count_macs(snn, calls)
    for (node, kind), name in zip(signals.kinds.items(), snn.operation_names, strict=True):
        if kind == NODE:
            neuron = snn.net.get_submodule(node.target).node
            thresholds = (neuron.v_threshold.min().item(), neuron.v_threshold.max().item())
            operation = type(neuron).__name__ + (" (signed)" if neuron.signed else "")
            yield Row(name, kind, operation, tuple(sorted(signals.received(node))), macs[node], thresholds)
        elif kind not in (WIRE, CONSTANT):
            yield Row(name, kind, signals.operation(node), tuple(sorted(signals.received(node))), macs[node])


def _partly(network: PartlySpikingNetwork, call: Call) -> Iterator[Row]:
    calls = record_calls(network, call)
    rest = calls.total
    for name, module in network.model.named_modules():
        rows: Iterable[Row] = ()
        if name in network.parts:
            inner = _rows(network.parts[name], calls.inputs.get(name, []))
            rows = (replace(row, name=f"{name}.{row.name}") for row in inner)
        elif calls.outside.get(name):
            rows = [Row(name, ANALOGUE, type(module).__name__, (ANALOGUE,), calls.outside[name])]
        for row in rows:
            rest -= row.macs
            yield row
    if rest:
        yield Row("(other operations)", ANALOGUE, "", (ANALOGUE,), rest)


def _sample(network: PartlySpikingNetwork) -> Call:
    if not (network.sample.args or network.sample.kwargs):
        raise DataError("this network does not know the shape of its input: give one, inspect(snn, x)")
    device, dtype = placement(network, None)

    def zeros(x: object) -> object:
        if not isinstance(x, Tensor):
            return x
        return torch.zeros_like(x, device=device, dtype=dtype if x.is_floating_point() else x.dtype)

    return Call(*tree_map(zeros, tuple(network.sample)))
