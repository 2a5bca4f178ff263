"""A report about a converted network: one page for people, one file of figures for programs."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from ... import ranks
from ...ann2snn.data.source import Source
from ...ann2snn.network.parts import PartlySpikingNetwork
from ...ann2snn.network.spiking_network import SpikingNetwork
from ...atomic_file import replacing
from ...errors import ConfigError, FileError
from ..answers import check_converted
from ..energy import checked_device
from .curve import checked_curve
from .metrics import Metrics, Subject, measure
from .numbers import percent
from .options import check_libraries, checked_folder, checked_limit, checked_title


@dataclass(frozen=True)
class Report:
    """
    What :func:`report` has written. ``print`` shows the headline.

    :param html: the page
    :param json: the file of figures
    :param metrics: what is in that file
    """

    html: Path
    json: Path
    metrics: Metrics

    def __str__(self) -> str:
        results, share = self.metrics["results"], self.metrics["operations"]["energy_share"]["arithmetic"]
        shown = [
            ("accuracy", results["accuracy"]),
            ("accuracy of the ANN", results["ann_accuracy"]),
            ("agreement with the ANN", results["agreement"]),
            ("error of the output", results["output_error"]),
            ("energy of the arithmetic, of the ANN's", share),
        ]
        return "\n".join([*(f"{what}: {percent(v)}" for what, v in shown if v is not None), f"report: {self.html}"])


def report(
    snn: SpikingNetwork | PartlySpikingNetwork,
    ann: nn.Module,
    dataloader: Iterable[Any],
    folder: str | os.PathLike[str],
    curve: object = None,
    metrics: object = None,
    device: Mapping[str, float] | None = None,
    title: str | None = None,
    max_batches: int | None = None,
    detail_batches: int | None = None,
    show_progress: bool = True,
) -> Report:
    """
    Measure a converted network, and write a page that a person reads in a minute: ``report.html``. It needs no other
    file and no connection. ``metrics.json`` has the same figures; docs/howto/report.md describes it.

    With several processes of ``torch.distributed`` each works for itself: call it in one of them.

    Files of these names are replaced when both new ones are whole. Other files in the folder are left alone.

    :param snn: what ``convert`` returned
    :param ann: the ANN that it was made of
    :param dataloader: batches as for :func:`evaluate`. Without labels there is no accuracy, but an agreement
    :param folder: where the files go; it is made if it is not there
    :param curve: for accuracy over time-steps and modes. An iterable of converted networks, which are evaluated on
        ``dataloader``, or of points with ``mode``, ``time_steps``, ``accuracy`` and ``agreement`` (attributes or keys),
        such as ``suggest_time_steps`` returns. A generator may convert one network after another. A dict names the
        lines. ``None``: this network alone, because another needs calibration data
    :param metrics: further metrics, as for :func:`evaluate`
    :param device: picojoules of an operation by name, as for :func:`count_operations`
    :param title: of the page
    :param max_batches: how many batches are read; ``None``: all
    :param detail_batches: how many of them errors by layer and operations are measured on, which takes some ten times
        as long as a call; ``None``: those that hold the first 1,000 samples
    :param show_progress: whether progress bars are drawn
    :return: where the files are, and all figures
    :raises MissingExtraError: if jinja2 or matplotlib is missing
    :raises ConfigError: if an argument cannot be used
    :raises DataError: if ``snn`` is no converted network in floats, or a batch cannot be used
    :raises ConversionError: if ``ann`` is another one
    :raises FileError: if the folder cannot be written to
    """
    check_libraries()
    check_converted("report", snn)
    if not isinstance(ann, nn.Module):
        raise ConfigError(f"ann must be a torch.nn.Module, got {type(ann).__name__}")
    from .page import render  # imports the libraries of the extra

    path, title, costs = checked_folder(folder), checked_title(title), checked_device(device)
    entries = checked_curve(curve)
    # The same seed for each reading: also of a loader that shuffles, all figures are of the same samples.
    data = Source(dataloader, checked_limit("max_batches", max_batches), seed=0)
    subject = Subject(snn, ann, data, checked_limit("detail_batches", detail_batches), show_progress)
    with ranks.alone():  # one process writes a report, and the others do not wait for it
        found = measure(subject, entries, metrics, costs, title)
    return _write(path, found, render(found))


def _write(folder: Path, found: Metrics, page: str) -> Report:
    html, figures = folder / "report.html", folder / "metrics.json"
    words = json.dumps(found, indent=1, allow_nan=False).encode()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(html) as new_html, replacing(figures) as new_figures:
            new_html.write_bytes(page.encode(errors="xmlcharrefreplace"))
            new_figures.write_bytes(words)
    except OSError as error:
        raise FileError(f"the report cannot be written to {folder}: {error}") from error
    return Report(html, figures, found)
