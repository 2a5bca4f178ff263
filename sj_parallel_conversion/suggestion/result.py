"""What was tried, and what was chosen."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ..analysis.table import aligned
from ..ann2snn.config import ConversionConfig
from ..ann2snn.network.spiking_network import SpikingNetwork
from ..ann2snn.prepared import PreparedANN


@dataclass(frozen=True)
class Setting:
    """
    A mode and T that were tried.

    :param mode: the neuron and its code
    :param time_steps: T
    :param accuracy: share of the targets that the network meets, 0 to 1; ``None`` without targets
    :param agreement: share of the ANN's classes that the network gives, 0 to 1
    :param loss: what counts for the tolerance: the accuracy that is lost; without targets the agreement that is missing
    :param spikes: of one sample and its window
    :param images: on which it was calibrated
    """

    mode: str
    time_steps: int
    accuracy: float | None
    agreement: float
    loss: float
    spikes: float
    images: int


@dataclass(frozen=True, eq=False)
class Suggestion:
    """
    What :func:`suggest_time_steps` found. ``print`` shows a table.

    :param network: the spiking network with the chosen setting, calibrated on all images but the held-out ones
    :param chosen: the setting, with what this network does on the held-out images
    :param curve: all settings that were tried, from few levels to many
    :param prepared: the captured ANN, without the held-out images: ``prepared.convert(time_steps=..., mode=...)``
    :param tolerance: the loss that was allowed
    :param cost: what is least, ``"spikes"`` or ``"time"``
    :param images: how many were held out
    :param ann_accuracy: of the ANN on these, 0 to 1; ``None`` without targets
    """

    network: SpikingNetwork
    chosen: Setting
    curve: tuple[Setting, ...]
    prepared: PreparedANN
    tolerance: float
    cost: str
    images: int
    ann_accuracy: float | None

    @property
    def time_steps(self) -> int:
        """T of the choice."""
        return self.chosen.time_steps

    @property
    def mode(self) -> str:
        """The mode of the choice."""
        return self.chosen.mode

    @property
    def config(self) -> ConversionConfig:
        """The options of :attr:`network`."""
        return self.network.config

    def __str__(self) -> str:
        what = "agreement with the ANN" if self.ann_accuracy is None else "accuracy"
        known = "" if self.ann_accuracy is None else f", the ANN's accuracy on them is {self.ann_accuracy:.2%}"
        return "\n".join(
            [
                *table(self.curve, self.chosen),
                f"chosen: mode={self.mode!r}, time_steps={self.time_steps}, the least {self.cost} with a loss of "
                f"{what} of at most {self.tolerance:.2%}",
                f"on {self.images} held-out images{known}",
            ]
        )


def table(curve: Iterable[Setting], chosen: Setting | None) -> list[str]:
    """A line for each setting, after those of the head."""
    lines = [("mode", "T", "accuracy", "agreement", "loss", "spikes", "calibrated on", "")]
    for row in curve:
        accuracy = "" if row.accuracy is None else f"{row.accuracy:.2%}"
        cells = (accuracy, f"{row.agreement:.2%}", f"{row.loss:.2%}", f"{row.spikes:,.0f}", f"{row.images:,}")
        lines.append((row.mode, str(row.time_steps), *cells, "chosen" if row is chosen else ""))
    return aligned(lines, left=1)
