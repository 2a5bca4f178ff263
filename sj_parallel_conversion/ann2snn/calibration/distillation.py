"""Label-free distillation: gradient steps that bring the outputs of the whole spiking network nearer to the ANN's."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, fx, nn
from tqdm import tqdm

from ... import ranks
from ...user_warnings import warn
from ..config import ConversionConfig
from ..data.cache import Spooled
from ..data.inputs import Batch
from ..data.selection import Data
from ..graph import is_kept
from .descent import Descent
from .judge import Judge
from .output_error import OutputError, outputs, packed
from .patches import LAYERS
from .sampling import spread

_EPOCHS = 3  # of calibration="weights", where there is something to gain
_WORTHWHILE = 0.005  # relative squared error of the outputs
_IMAGES = 16  # a step, and with gradients at once, which is what limits the memory
_RATE = 0.012  # size of a step, relative to the weights, for a relative error of 1
_AVERAGED = 2 / 3  # share of the steps, the last, over which weights are averaged
_CHECKED = 8  # one of eight parts of the images shows what there is to gain, and whether steps have led astray
_ASTRAY = 1.5  # that many times the error


def distil(
    ann: fx.GraphModule,
    snn: fx.GraphModule,
    data: Data,
    config: ConversionConfig,
    judge: Judge | None = None,
) -> None:
    r"""
    Adam on the weights (not the biases) of the convolutions and linear layers behind the first of them, with the
    straight-through gradient of the relative squared error of the outputs against the ANN's
    (:class:`~.output_error.OutputError`). Steps are proportional to a layer's weights and to the root of the error that
    there is to correct, and the weights are averaged over the last two thirds of them. If held-out images show that
    this has made the network worse, it stays as it was. Without a judge it stays so if the steps have led astray on the
    images that they were taken on.

    :param ann: the reference
    :param snn: the calibrated network, folded or not; its weights are set
    :param data: calibration data, read once
    :param config: the conversion's options. ``distillation_epochs=None``: three if the calibration corrects weights,
        the only output is one of two axes, as classes ``[N, C]`` are, and its error is worth it, otherwise none
    :param judge: has images that are not among ``data``
    """
    chosen = config.distillation_epochs
    if chosen == 0 or (chosen is None and not config.corrects_weights):
        return
    reason = _reason_or_none(lambda: _unfit(ann, snn, data, chosen))
    if reason is None:  # what the dataloader raises is no reason: it goes out
        size = max(1, _IMAGES // ranks.count())  # a step has as many images, however many ranks there are
        parts = data.spool.keep(part for x in data.batches("read calibration data") for part in data.parts(x, size))
        reason = _reason_or_none(lambda: _distil(ann, snn, data, config, judge, parts))
    if reason:
        warn(f"the spiking network is calibrated, but not distilled: {reason}")


def _reason_or_none(step: Callable[[], str | None]) -> str | None:
    try:
        return step()
    except RuntimeError as error:  # no gradient, or not enough memory for one: what is calibrated must not be lost
        return str(error).partition("\n")[0]


def _unfit(ann: fx.GraphModule, snn: fx.GraphModule, data: Data, chosen: int | None) -> str | None:
    """:return: why the network cannot be distilled, nothing where it need not be, and ``None`` if it is to be"""
    if not _trained_weights(snn):
        return "" if chosen is None else "there is no convolution or linear layer behind the first"
    if chosen is None and not _is_classification(outputs(ann, data.parts(data.first(), _IMAGES)[0])):
        return ""
    return None


def _distil(
    ann: fx.GraphModule,
    snn: fx.GraphModule,
    data: Data,
    config: ConversionConfig,
    judge: Judge | None,
    parts: Spooled[Batch],
) -> str:
    """:return: why the network is not distilled, though it should be, or nothing"""
    error = OutputError(ann, parts, data.spool, data.fixed_batch)
    if not error.usable:
        return "the ANN has no finite outputs of floats"
    return _Distillation(snn, error, judge, config.generator()).run(config.distillation_epochs, config.show_progress)


class _Distillation:
    def __init__(
        self, snn: fx.GraphModule, error: OutputError, judge: Judge | None, generator: torch.Generator
    ) -> None:
        self.error, self.judge, self.generator = error, judge, generator
        self.weights = _trained_weights(snn)
        # steps are smaller than what half precision can tell apart
        half = any(w.dtype in (torch.float16, torch.bfloat16) for w in self.weights)
        self.dtype = torch.float32 if half else None
        self.network = copy.deepcopy(snn).float() if half else snn
        self.trained = _trained_weights(self.network)
        self.checked = spread(len(error), -(-len(error) // _CHECKED), generator)[0].tolist()

    def run(self, epochs: int | None, progress: bool) -> str:
        """
        :param epochs: ``None``: as many as are worth it
        :return: why the network stays as it was, though the steps were taken, or nothing
        """
        with _training_only(self.network, self.trained), torch.enable_grad():
            before = self._checked_error()
            if before <= (_WORTHWHILE if epochs is None else 0.0):
                return ""
            judged = None if self.judge is None else self.judge.errors(self.network, self.dtype)
            kept = [w.detach().clone() for w in self.trained]
            try:
                averages = self._descend(_EPOCHS if epochs is None else epochs, _RATE * before**0.5, progress)
                _set(self.trained, averages)
                reason = self._harm(before, judged)
            finally:
                _set(self.trained, kept)
        if not reason:
            _set(self.weights, averages)
        return reason

    def _harm(self, before: float, judged: Tensor | None) -> str:
        """What the steps have made worse, if they have; ``judged`` are the held-out images' errors before them."""
        if self.judge is None or judged is None:
            return "" if self._checked_error() < _ASTRAY * before else "gradient steps make the outputs worse"
        errors = self.judge.errors(self.network, self.dtype)
        if not self.judge.worse(errors, judged):
            return ""
        return (
            f"gradient steps make the outputs worse, with an error of {float(errors.mean()):.3g} on {len(errors)} "
            f"held-out images instead of {float(judged.mean()):.3g}"
        )

    def _descend(self, epochs: int, rate: float, progress: bool) -> list[Tensor]:
        """Train, with steps of ``rate`` times the weights. :return: the averages of the weights"""
        descent = Descent(self.trained, rate)
        most = int(ranks.largest(torch.tensor(len(self.error))))  # of the ranks; those with fewer skip some steps
        shuffled = [torch.randperm(most, generator=self.generator) for _ in range(epochs)]
        order = torch.cat(shuffled).tolist()
        first = int(len(order) * (1 - _AVERAGED))
        hidden = not (progress and ranks.leads())
        for step, part in enumerate(tqdm(order, desc="distil", disable=hidden, leave=False)):
            has_one = part < len(self.error)
            loss = self.error.of(self.network, part, self.dtype) if has_one else None
            images = self.error.parts[part].size if has_one else 0
            descent.step(loss, average=step >= first, images=images)
        return descent.averages()

    @torch.no_grad()
    def _checked_error(self) -> float:
        errors = [float(self.error.of(self.network, part, self.dtype)) for part in self.checked]
        total, count = ranks.total_of(sum(errors), len(errors))
        return total / count


def _is_classification(found: list[Tensor]) -> bool:
    return len(found) == 1 and found[0].dim() == 2 and found[0].shape[1] > 1


def _trained_weights(snn: fx.GraphModule) -> list[nn.Parameter]:
    """Each weight once, of all layers but the first to run, which sees no spikes in most networks, and kept ones."""
    nodes = [node for node in snn.graph.nodes if node.op == "call_module"]
    layers = [(node, snn.get_submodule(node.target)) for node in nodes]
    layers = [(node, layer.weight) for node, layer in layers if type(layer) in LAYERS]
    trained = {id(weight): weight for _, weight in layers[1:] if weight is not layers[0][1]}
    kept = {id(weight) for node, weight in layers if is_kept(node)}
    return [weight for key, weight in trained.items() if key not in kept]


@contextlib.contextmanager
def _training_only(network: nn.Module, trained: list[nn.Parameter]) -> Iterator[None]:
    """Levels pass and no trains, and nothing but ``trained`` gets a gradient."""
    asked = [(p, p.requires_grad) for p in network.parameters()]
    try:
        for parameter, _ in asked:
            parameter.requires_grad_(False)
        for parameter in trained:
            parameter.requires_grad_(True)
        with packed(network):
            yield
    finally:
        for parameter, flag in asked:
            parameter.requires_grad_(flag)
            parameter.grad = None


def _set(weights: list[nn.Parameter], values: list[Tensor]) -> None:
    for w, value in zip(weights, values, strict=True):
        w.data.copy_(value)
