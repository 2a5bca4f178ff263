"""All figures of a report as plain data, which is what ``metrics.json`` holds. The page shows these and no others."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from itertools import islice
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from ...ann2snn.data.source import Source
from ..answers import Network
from ..count_operations import LayerOperations, OperationCount, count_operations
from ..evaluate import Evaluation, evaluate
from ..layer_errors import LayerErrors, layer_errors
from ..macs import samples_in
from ..neuron_errors import OUTPUT
from .curve import point, points_of
from .networks import Converted, first_part, mode_of, parts_of, spiking_layers
from .origin import call_of, fingerprint, options_of, versions
from .trains import in_every_code, record_trains

SCHEMA_VERSION = 1
_SAMPLES = 1000  # errors by layer and operations are means, which change little with more
Metrics = dict[str, Any]  # plain data, as JSON has them


@dataclass(frozen=True)
class Subject:
    """
    What a report is about.

    :param snn: the converted network
    :param ann: the ANN that it was made of
    :param data: what both are run on
    :param detail_batches: how many batches errors by layer and operations are measured on; ``None``: those that hold
        the first 1,000 samples
    :param show_progress: whether progress bars are drawn
    """

    snn: Converted
    ann: nn.Module
    data: Source
    detail_batches: int | None
    show_progress: bool

    @property
    def parts(self) -> list[str]:
        """The submodules that were converted; none, if all of the model was."""
        return [name for name in parts_of(self.snn) if name]


@torch.no_grad()
def measure(
    subject: Subject, curve: Iterable[Any], metrics: object, costs: Mapping[str, float] | None, title: str | None
) -> Metrics:
    """
    :param subject: what the report is about
    :param curve: as :func:`~.curve.checked_curve` gives it
    :param metrics: as for :func:`evaluate`
    :param costs: picojoules by operation, as for :func:`count_operations`
    :param title: of the report; ``None``: the ANN's class
    :return: plain data, see docs/howto/report.md
    """
    snn, ann, data, show = subject.snn, subject.ann, subject.data, subject.show_progress
    metrics_of_ann = copy.deepcopy(metrics)  # a metric may add up all that it has ever seen
    found = evaluate(snn, data, ann=ann, metrics=metrics, show_progress=show)
    of_ann = evaluate(ann, data, metrics=metrics_of_ann, show_progress=show)
    detail, sizes = _detail(subject)
    errors = layer_errors(snn, ann, detail, show_progress=show)
    operations = count_operations(snn, detail, device=costs, show_progress=show)
    own = point(mode_of(snn), mode_of(snn), snn.time_steps, found.accuracy, found.agreement, "this network")
    network = Network(snn)
    with network.evaluating():
        trains = record_trains(snn, network.call_of(data.first(), 0))
    options = options_of(snn)
    return _finite(
        {
            "schema_version": SCHEMA_VERSION,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "title": title or f"{type(ann).__name__} as a spiking network",
            "network": _network(subject),
            "data": {"samples": found.images, "detail_batches": len(sizes), "detail_samples": sum(sizes)},
            "results": _results(found, of_ann, errors),
            "curve": points_of(curve, snn, own, ann, data, show),
            "errors": [asdict(row) for row in errors.rows],
            "neurons": list(_neurons(snn, operations)),
            "operations": _operations(operations),
            "trains": trains,
            "codes": {"layer": _middle(trains)["name"], "trains": in_every_code(_middle(trains))} if trains else None,
            "conversion": {"options": options, "call": call_of(options, subject.parts)},
            "fingerprints": {"snn": fingerprint(snn), "ann": fingerprint(ann)},
            "versions": versions(),
        }
    )


def _detail(subject: Subject) -> tuple[Source, list[int]]:
    """The batches for what costs more than a call of both networks, and how many samples each of them has."""
    network, limit = Network(subject.snn), subject.detail_batches
    sizes: list[int] = []
    for index, batch in enumerate(islice(subject.data, limit)):
        sizes.append(samples_in(network.call_of(batch, index)))
        if limit is None and sum(sizes) >= _SAMPLES:
            break
    return Source(subject.data, len(sizes)), sizes


def _network(subject: Subject) -> Metrics:
    snn = subject.snn
    return {
        "ann": type(subject.ann).__name__,
        "parts": subject.parts,
        "mode": mode_of(snn),
        "code": first_part(snn).config.node_type.code.name,
        "time_steps": snn.time_steps,
        "execution": snn.execution,
        "neuron_layers": len(snn.neurons()),
        "parameters": sum(p.numel() for p in subject.ann.parameters()),
    }


def _results(found: Evaluation, of_ann: Evaluation, errors: LayerErrors) -> Metrics:
    accuracy, of_the_ann = found.accuracy, of_ann.accuracy
    return {
        "accuracy": accuracy,
        "ann_accuracy": of_the_ann,
        "accuracy_change": None if accuracy is None or of_the_ann is None else accuracy - of_the_ann,
        "agreement": found.agreement,
        "output_error": next((row.after for row in errors.rows if row.name == OUTPUT), None),
        "samples_per_second": found.images_per_second,
        "ann_samples_per_second": of_ann.images_per_second,
        "metrics": {name: [_plain(value), _plain(of_ann.metrics[name])] for name, value in found.metrics.items()},
    }


def _neurons(snn: Converted, operations: OperationCount) -> Iterator[Metrics]:
    counts = {row.name: row for row in operations.rows if row.neurons}
    for name, site in spiking_layers(snn):
        if name in counts:  # a part that is never called has none
            thresholds, row = site.node.v_threshold.double(), counts[name]
            yield {
                "name": name,
                "neurons": row.neurons,
                "spikes": row.spikes,
                "firing_rate": row.spikes / (row.neurons * snn.time_steps),
                "v_threshold": [float(x) for x in (thresholds.min(), thresholds.median(), thresholds.max())],
            }


def _operations(found: OperationCount) -> Metrics:
    names = [f.name for f in fields(LayerOperations)][2:]
    totals, energy = {name: found.total(name) for name in names}, found.energy
    kinds = {"arithmetic": "", "arithmetic_int8": "_int8", "memory": "_memory", "memory_int8": "_int8_memory"}
    return {
        "layers": [asdict(row) for row in found.rows],
        "totals": totals,
        "firing_rate": found.firing_rate,
        "spikes_per_neuron": totals["spikes"] / max(totals["neurons"], 1),
        "spiking_share": 1 - totals["macs"] / totals["ann_macs"] if totals["ann_macs"] else None,
        "energy_pj": {kind: [energy["snn" + end], energy["ann" + end]] for kind, end in kinds.items()},
        "energy_share": {
            kind: energy["snn" + end] / energy["ann" + end] if energy["ann" + end] else None
            for kind, end in kinds.items()
        },
        "costs_pj": dict(found.device),
    }


def _middle(layers: list[Metrics]) -> Metrics:
    return layers[len(layers) // 2]


def _plain(value: object) -> object:
    number = value.item() if isinstance(value, Tensor) and value.numel() == 1 else value
    if isinstance(number, bool) or not isinstance(number, Real):
        return str(number)
    return float(number)


def _finite(value: Any) -> Any:
    """The same with ``None`` for infinity and NaN, which JSON does not know."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
