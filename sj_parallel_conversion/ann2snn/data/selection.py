"""Some of the calibration data, where all of them could stand."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from .batches import CalibrationData
from .inputs import Batch


class Selection:
    """
    Some of the calibration data in the place of all.

    :param data: all of it, or a selection itself
    :param batches: gives the batches; takes the label of the progress bar
    """

    def __init__(self, data: Data, batches: Callable[[str], Iterable[Batch]]) -> None:
        self._data, self.batches = data, batches

    def __getattr__(self, name: str) -> Any:
        return getattr(self._data, name)


# What a step of the conversion reads: it need not know whether these are all of the data.
Data = CalibrationData | Selection
