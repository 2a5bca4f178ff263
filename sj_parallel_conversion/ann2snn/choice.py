"""Which thresholds and which calibration a network keeps: those that are asked for, or others that do better."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace

import torch
from torch import Tensor, fx

from .. import ranks
from ..user_warnings import warn
from .calibration import CHEAPER
from .calibration.judge import Judge
from .calibration.output_error import outputs
from .calibration.score_error import ScoreError, scores
from .config import ConversionConfig
from .data.selection import Data, Selection
from .draft import Built, Draft, Known

_HOPE = 0.5  # of the error with a few images: no more than that goes away with all


class Choice:
    """
    Builds the network that is asked for, and beside it what a cheaper calibration gives, if that may be better. Before
    that the largest activations are tried as thresholds, if the network gives scores.

    :param model: the captured network, left as it is
    :param data: calibration data
    :param graded_input: whether it is a part of a network whose input comes from other layers of it
    :param judge: gives the held-out images; ``None``: they are chosen among ``data``
    """

    def __init__(
        self,
        model: fx.GraphModule,
        data: Data,
        graded_input: bool,
        judge: Callable[[], Judge | None] | None = None,
    ) -> None:
        self.model, self.data, self.graded_input, self._judge = model, data, graded_input, judge
        self._known: Known = {}

    def of(self, config: ConversionConfig) -> tuple[Built, ConversionConfig]:
        """
        :param config: the options that are asked for
        :return: the network with the least error on held-out images, and the options that have led to it. There is no
            choice of calibrations with the cheapest ones, and none at all with few images and in a network of trained
            quantisers alone
        """
        draft = Draft(self.model, self.data, config, self.graded_input)
        judge = None
        compares, has_scores = config.calibration in CHEAPER, config.threshold == "mse" and self._has_scores()
        if draft.calibrated and (compares or has_scores):
            judge = Judge.of(self.model, self.data, config) if self._judge is None else self._judge()
        if judge is not None and has_scores:
            draft.config = config = self._by_scores(config, judge)
        judge = judge if compares else None
        best, chosen = draft.network(self.data, judge, self._known), config
        if judge is None:
            return best, config
        errors = first = judge.errors(best.net)
        for calibration in CHEAPER[config.calibration]:
            cheaper = replace(config, calibration=calibration)
            found = self._better(cheaper, judge, errors)
            if found is not None:
                best, chosen, errors = found, cheaper, judge.errors(found.net)
        if chosen is not config:
            asked, kept = config.calibration, chosen.calibration
            warn(
                f"calibration={asked!r} does worse than {kept!r} here: on {len(errors)} held-out images the relative "
                f"squared error of the outputs is {float(first.mean()):.3g} instead of {float(errors.mean()):.3g}. So "
                f"the network is that of calibration={kept!r}. More calibration images may help"
            )
        return best, chosen

    def _has_scores(self) -> bool:
        """Whether there are scores among the outputs, as far as the first batch shows it."""
        first = self.data.first()
        with torch.no_grad():
            return ranks.any_of(any(scores(y, first.size).any() for y in outputs(self.model, first)))

    def _by_scores(self, config: ConversionConfig, judge: Judge) -> ConversionConfig:
        """
        ``threshold="mse"`` weighs what it clips against what it rounds, value by value. Few places of an image have
        high scores, and in these many neurons are clipped at once. So the largest activations may be the better choice.

        :return: ``config``, with ``threshold="max"`` where this makes the error of the scores less
        """
        batches = [*judge.error.parts, *judge.few.batches("")]
        images = Selection(self.data, lambda description: batches)
        with ranks.alone():  # all have these images
            by_scores = ScoreError(self.model, batches, self.data.spool)
            errors = {}
            for threshold in ("mse", "max") if by_scores else ():
                tried = replace(config, calibration="none", threshold=threshold, distillation_epochs=0)
                network = Draft(self.model, images, tried, self.graded_input).network(images, None).net
                errors[threshold] = by_scores.by_image(network)
        errors = ranks.object_of(errors, 0)  # other machines may round in another way
        if not errors or not ScoreError.worse(errors["mse"], than=errors["max"]):
            return config
        warn(
            f"threshold='mse' keeps the scores of this network worse than 'max': on {len(errors['mse'])} calibration "
            f"images its high scores are {float(errors['mse'].mean()):.3g} and {float(errors['max'].mean()):.3g} off. "
            "So the network has the thresholds of threshold='max'"
        )
        return replace(config, threshold="max")

    def _better(self, config: ConversionConfig, judge: Judge, errors: Tensor) -> Built | None:
        """The network of ``config``, or ``None`` if that does not make the ``errors`` less."""
        held_out = config.calibration in CHEAPER
        network = None
        # What fits thresholds alone shows on a few images what it is good for; mostly that is the end of it. What
        # leaves images out may gain from more of them.
        for data, share in ((judge.few, _HOPE if held_out else 1.0), (self.data, 1.0)):
            with ranks.alone() if data is judge.few else nullcontext():  # all ranks have these few
                draft = Draft(self.model, data, config, self.graded_input)
                network = draft.network(data, judge if held_out and data is self.data else None, self._known)
            if not judge.worse(errors, than=share * judge.errors(network.net)):
                return None
        return network
