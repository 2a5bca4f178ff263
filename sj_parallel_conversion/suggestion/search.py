"""Tries settings from few levels to many, and calibrates the cheapest of them in full."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from ..ann2snn.calibration.output_error import packed
from ..ann2snn.config import MODES
from ..ann2snn.data.inputs import Batch
from ..ann2snn.network.spiking_network import SpikingNetwork
from ..ann2snn.prepared import PreparedANN
from ..errors import ConversionError
from ..functional import decode, encode_bytes
from ..neuron import SpikingNode
from .held_out_images import Part, classes_of, spread_over
from .result import Setting, Suggestion, table

_FEW, _SHARE = 64, 6  # images of a first look: a sixth of those that are fitted, at least so many
_SPIKING = 16  # images whose spikes are counted


def levels(mode: str, time_steps: int) -> float:
    """How many levels above 0 a neuron has."""
    return MODES[mode].code.max_level(time_steps)


class Search:
    """
    Tries settings, and keeps what they give.

    :param prepared: the ANN, with the fitted images
    :param fitted: these
    :param held_out: the others
    :param tolerance: the largest loss
    :param cost: what is to be least
    :param show_progress: whether a progress bar is drawn
    """

    def __init__(
        self,
        prepared: PreparedANN,
        fitted: list[Batch],
        held_out: list[Part],
        tolerance: float,
        cost: str,
        show_progress: bool,
    ) -> None:
        self.prepared, self.held_out, self.tolerance, self.cost = prepared, held_out, tolerance, cost
        self.fitted = sum(batch.size for batch in fitted)
        self._whole = bool(prepared.data.fixed_batch)
        few = spread_over(fitted, max(_FEW, self.fitted // _SHARE), self._whole)
        self.few, self.quick = sum(batch.size for batch in few), prepared.on(few)
        self.images = sum(part.batch.size for part in held_out)
        self.has_targets = all(part.targets is not None for part in held_out)
        self._sketches: dict[tuple[Any, ...], tuple[SpikingNetwork, tuple[float | None, float]]] = {}
        self._bar = tqdm(desc="suggest time-steps", disable=not show_progress, leave=False)

    def run(self, settings: list[tuple[str, int]]) -> Suggestion:
        """:param settings: from few levels to many. :return: the choice"""
        curve: dict[tuple[str, int], Setting] = {}
        waiting = list(settings)
        with self._bar:
            while True:
                self._try(waiting, curve)
                within = self._within(curve.values())
                if not within:
                    raise ConversionError(self._none_found(curve.values()))
                best = min(within, key=self._cost)
                network = self.prepared.convert(mode=best.mode, time_steps=best.time_steps)
                correct = self._correct(network)
                for mode, T in curve:
                    if self._key(mode, T) == self._key(best.mode, best.time_steps):
                        curve[mode, T] = self._measured(mode, T, network, correct, self.fitted)
                chosen = curve[best.mode, best.time_steps]
                if self._within([chosen]):
                    return self._suggestion(network, chosen, curve)

    def _try(self, waiting: list[tuple[str, int]], curve: dict[tuple[str, int], Setting]) -> None:
        """Look at settings with few images, until each mode is within the tolerance or can no longer be cheapest."""
        for mode, T in list(waiting):
            good = self._within(curve.values())
            if any(s.mode == mode or (self.cost == "time" and s.time_steps < T) for s in good):
                continue
            waiting.remove((mode, T))
            network, correct = self._sketch(mode, T)
            curve[mode, T] = self._measured(mode, T, network, correct, self.few)
            self._bar.update()

    def _within(self, settings: Iterable[Setting]) -> list[Setting]:
        """Those within the tolerance; 1 - 0.99 is a little more than 0.01."""
        return [setting for setting in settings if setting.loss <= self.tolerance + 1e-9]

    def _cost(self, setting: Setting) -> tuple[float, float]:
        both = (setting.spikes, setting.time_steps)
        return both if self.cost == "spikes" else both[::-1]

    def _key(self, mode: str, T: int) -> tuple[float, bool]:
        """What a network computes depends on: in which code its levels are written does not matter."""
        return levels(mode, T), self.prepared.configured(mode=mode, time_steps=T).membrane_shortcuts

    def _sketch(self, mode: str, T: int) -> tuple[SpikingNetwork, tuple[float | None, float]]:
        """A network with as many levels, calibrated on few images, and what it gets right."""
        key = self._key(mode, T)
        if key not in self._sketches:
            network = self.quick.sketch(mode=mode, time_steps=T, show_progress=False)
            self._sketches = {key: (network, self._correct(network))}  # the next levels need the last one no more
        return self._sketches[key]

    @torch.no_grad()
    def _correct(self, network: SpikingNetwork) -> tuple[float | None, float]:
        """Accuracy, if the targets are known, and agreement with the ANN."""
        right = agreed = count = 0
        with packed(network), self.prepared.captured.in_full_precision():
            for part in self.held_out:
                classes = classes_of(network.signature.build(network.net(*part.batch.clone().tensors)))
                right += 0 if part.targets is None else int((classes == part.targets).sum())
                agreed += int((classes == part.classes).sum())
                count += classes.numel()
        return right / count if self.has_targets else None, agreed / count

    def _measured(
        self, mode: str, T: int, network: SpikingNetwork, correct: tuple[float | None, float], images: int
    ) -> Setting:
        (accuracy, agreement), of_the_ann = correct, self.ann_accuracy
        loss = 1 - agreement if accuracy is None or of_the_ann is None else of_the_ann - accuracy
        return Setting(mode, T, accuracy, agreement, loss, self._spikes(network, mode, T), images)

    @property
    def ann_accuracy(self) -> float | None:
        """Of the ANN on the held-out images."""
        if not self.has_targets:
            return None
        pairs = [(part.classes, part.targets) for part in self.held_out]
        right = sum(int((classes == targets).sum()) for classes, targets in pairs if targets is not None)
        return right / sum(classes.numel() for classes, _ in pairs)

    @torch.no_grad()
    def _spikes(self, network: SpikingNetwork, mode: str, T: int) -> float:
        """Spikes of one sample if the levels of ``network`` are written in the code of ``mode``."""
        code, counts = MODES[mode].code, []

        def count(node: SpikingNode, args: tuple[Any, ...], train: Tensor) -> None:
            """Read the levels of one neuron, and count the spikes of their code words."""
            counts.append(int(encode_bytes(decode(train, node.code), code, T, node.signed).count_nonzero()))

        images = spread_over([part.batch for part in self.held_out], _SPIKING, self._whole)
        hooks = [site.node.register_forward_hook(count) for site in network.neurons()]
        try:
            with self.prepared.captured.in_full_precision():
                for batch in images:
                    network.net(*batch.clone().tensors)
        finally:
            for hook in hooks:
                hook.remove()
        return sum(counts) / sum(batch.size for batch in images)

    def _suggestion(
        self, network: SpikingNetwork, chosen: Setting, curve: dict[tuple[str, int], Setting]
    ) -> Suggestion:
        rows = tuple(sorted(curve.values(), key=lambda s: (levels(s.mode, s.time_steps), s.time_steps)))
        return Suggestion(
            network, chosen, rows, self.prepared, self.tolerance, self.cost, self.images, self.ann_accuracy
        )

    def _none_found(self, curve: Iterable[Setting]) -> str:
        rows = "\n".join(table(curve, None))
        return (
            f"no setting is within tolerance={self.tolerance} on {self.images} held-out images. Give larger "
            f"time_steps, more calibration images, calibration='weights', or a larger tolerance.\n{rows}"
        )
