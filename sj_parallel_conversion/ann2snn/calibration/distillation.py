"""Label-free distillation: gradient steps that bring the outputs of the whole spiking network nearer to the ANN's."""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, fx, nn
from tqdm import tqdm

from ...neuron.spiking_activation import SpikingActivation
from ..config import ConversionConfig
from ..data.batches import CalibrationData
from ..data.cache import Spool, Spooled
from ..data.inputs import Batch
from ..data.outliers import is_usual
from .patches import LAYERS

_EPOCHS = 3  # of calibration="weights", where there is something to gain
_WORTHWHILE = 0.005  # relative squared error of the outputs
_IMAGES = 16  # a step, and with gradients at once, which is what limits the memory
_RATE = 0.012  # size of a step, relative to the weights, for a relative error of 1
_AVERAGED = 2 / 3  # share of the steps, the last, over which weights are averaged
_CHECKED = 8  # every eighth part of the images shows whether the steps have led astray
_ASTRAY = 1.5  # that many times the error


def distil(ann: fx.GraphModule, snn: fx.GraphModule, data: CalibrationData, config: ConversionConfig) -> None:
    r"""
    Adam on the weights (not the biases) of the convolutions and linear layers behind the first of them, with the
    straight-through gradient of the relative squared error of the outputs y against the ANN's,

    .. math:: e = \overline{(y - y^*)^2} / \mathrm{var}(y^*).

    Steps are proportional to a layer's weights and to the root of the error that there is to correct, and the weights
    are averaged over the last two thirds of them. If that has led astray, which a sample of the images shows, the
    network stays as it was. (Held-out images could not show more: the calibration has fitted the network to them, too,
    so that on small data even good steps make their error larger.)

    :param ann: the reference
    :param snn: the calibrated network, folded or not; its weights are set
    :param data: calibration data, read once
    :param config: the conversion's options. ``distillation_epochs=None``: three for ``calibration="weights"`` if the
        only output is one of two axes, as classes ``[N, C]`` are, and its error worth it, otherwise none
    """
    chosen = config.distillation_epochs
    if chosen == 0 or (chosen is None and config.calibration != "weights"):
        return
    try:
        reason = _distil(ann, snn, data, config)
    except RuntimeError as error:  # no gradient, or not enough memory for one: what is calibrated must not be lost
        reason = str(error).partition("\n")[0]
    if reason:
        warnings.warn(f"the spiking network is calibrated, but not distilled: {reason}", stacklevel=2)


def _distil(ann: fx.GraphModule, snn: fx.GraphModule, data: CalibrationData, config: ConversionConfig) -> str:
    """:return: why the network is not distilled, though it should be, or nothing"""
    chosen = config.distillation_epochs
    if not _trained_weights(snn):
        return "" if chosen is None else "there is no convolution or linear layer behind the first"
    if chosen is None and not _is_classification(_outputs(ann, data.parts(data.first(), _IMAGES)[0])):
        return ""
    spool = Spool(config.max_memory)
    parts = spool.keep(part for x in data.batches("read calibration data") for part in data.parts(x, _IMAGES))
    parts, targets = _usual(spool, parts, spool.keep(_outputs(ann, x) for x in parts), data.fixed_batch)
    if not len(parts):
        return "the ANN has no finite outputs of floats"
    better = _Distillation(snn, parts, targets).run(chosen, config.show_progress)
    return "" if better else "gradient steps make the outputs worse"


class _Distillation:
    def __init__(self, snn: fx.GraphModule, parts: Spooled, targets: Spooled) -> None:
        self.parts, self.targets = parts, targets
        self.weights = _trained_weights(snn)
        # steps are smaller than what half precision can tell apart
        self.half = any(w.dtype in (torch.float16, torch.bfloat16) for w in self.weights)
        self.network = copy.deepcopy(snn).float() if self.half else snn
        self.trained = _trained_weights(self.network)
        self.deviations = _deviations(targets)

    def run(self, epochs: int | None, progress: bool) -> bool:
        """
        :param epochs: ``None``: as many as are worth it
        :return: ``False`` if the steps have led astray
        """
        with _training_only(self.network, self.trained), torch.enable_grad():
            before = self._checked_error()
            if before <= (_WORTHWHILE if epochs is None else 0.0):
                return True
            kept = [w.detach().clone() for w in self.trained]
            try:
                averages = self._descend(_EPOCHS if epochs is None else epochs, _RATE * before**0.5, progress)
                _set(self.trained, averages)
                better = self._checked_error() < _ASTRAY * before
            finally:
                _set(self.trained, kept)
        if better:
            _set(self.weights, averages)
        return better

    def _descend(self, epochs: int, rate: float, progress: bool) -> list[Tensor]:
        """Train, with steps of ``rate`` times the weights. :return: the averages of the weights"""
        sizes = [float(w.detach().double().square().mean().sqrt()) for w in self.trained]
        groups = [{"params": [w], "lr": rate * size} for w, size in zip(self.trained, sizes, strict=True)]
        optimiser = torch.optim.Adam(groups, betas=(0.9, 0.99))
        generator = torch.Generator().manual_seed(0)
        order = torch.cat([torch.randperm(len(self.parts), generator=generator) for _ in range(epochs)]).tolist()
        first = int(len(order) * (1 - _AVERAGED))
        averages = [torch.zeros_like(w) for w in self.trained]
        for step, part in enumerate(tqdm(order, desc="distil", disable=not progress, leave=False)):
            optimiser.zero_grad()
            self._error(part).backward()
            for w, size in zip(self.trained, sizes, strict=True):
                if w.grad is not None:  # Adam has a constant for gradients that are small, whatever their units
                    w.grad.mul_(size)
            optimiser.step()
            if step >= first:
                for average, w in zip(averages, self.trained, strict=True):
                    average.lerp_(w.detach(), 1 / (step - first + 1))
        return averages

    @torch.no_grad()
    def _checked_error(self) -> float:
        errors = [float(self._error(part)) for part in range(0, len(self.parts), _CHECKED)]
        return sum(errors) / len(errors)

    def _error(self, part: int) -> Tensor:
        batch = self.parts[part]
        batch = batch.to(batch.tensors[0].device, torch.float32) if self.half else batch
        outputs = _outputs(self.network, batch)
        pairs = zip(outputs, self.targets[part], self.deviations, strict=True)
        return sum(((y - target) / deviation).square().mean() for y, target, deviation in pairs) / len(outputs)


def _outputs(model: nn.Module, batch: Batch) -> list[Tensor]:
    """The floating tensors among the outputs, in float32 at least."""
    outputs = model(*batch.clone().tensors)  # autograd takes no tensor made in inference mode
    tensors = [y for y in outputs if isinstance(y, Tensor) and y.is_floating_point() and y.numel()]
    return [y if y.dtype == torch.float64 else y.float() for y in tensors]


def _usual(spool: Spool, parts: Spooled, targets: Spooled, whole: bool) -> tuple[Spooled, Spooled]:
    """
    Without images whose output is not finite or would decide the error alone, as far as it is known which output is
    whose. If batches have to stay ``whole``, without the batches in which there is such an image.
    """
    if not targets[0]:
        return spool.keep([]), spool.keep([])
    if not all(y.dim() and len(y) == x.size for x, outputs in zip(parts, targets, strict=True) for y in outputs):
        return parts, targets
    sizes = _sizes(targets)
    finite = torch.stack([size.isfinite() for size in sizes]).all(0)
    usual = [is_usual(size.where(finite, 0.0)) for size in sizes]
    masks = (torch.stack(usual).all(0) & finite).split([x.size for x in parts])
    if all(mask.all() for mask in masks):
        return parts, targets
    kept = [(i, mask) for i, mask in enumerate(masks) if (mask.all() if whole else mask.any())]
    return (
        spool.keep(parts[i].select(mask) for i, mask in kept),
        spool.keep([y[mask] for y in targets[i]] for i, mask in kept),
    )


def _sizes(targets: Iterable[list[Tensor]]) -> list[Tensor]:
    """Of each output, the largest magnitude in each image."""
    by_part = [[y.flatten(1).abs().amax(1) if y.dim() > 1 else y.abs() for y in outputs] for outputs in targets]
    return [torch.cat(parts) for parts in zip(*by_part, strict=True)]


def _is_classification(outputs: list[Tensor]) -> bool:
    return len(outputs) == 1 and outputs[0].dim() == 2 and outputs[0].shape[1] > 1


def _deviations(targets: Iterable[list[Tensor]]) -> list[Tensor]:
    """The standard deviation of each output, over all images; of a constant one its size, or 1 where that is 0."""
    sums = [torch.stack([_moments(y.double()) for y in outputs]) for outputs in targets]
    count, total, square = sum(sums).unbind(1)
    variance = square / count - (total / count).square()
    variance = torch.where(variance > 0, variance, square / count)
    return list(torch.where(variance > 0, variance, 1.0).sqrt().float())


def _moments(y: Tensor) -> Tensor:
    return torch.stack([y.new_tensor(y.numel()), y.sum(), y.square().sum()])


def _trained_weights(snn: fx.GraphModule) -> list[nn.Parameter]:
    """Each weight once, of all layers but the first to run: in most networks it sees no spikes."""
    modules = [snn.get_submodule(node.target) for node in snn.graph.nodes if node.op == "call_module"]
    weights = [module.weight for module in modules if type(module) in LAYERS]
    return [w for i, w in enumerate(weights) if all(w is not other for other in weights[:i])][1:]


@contextlib.contextmanager
def _training_only(network: nn.Module, trained: list[nn.Parameter]) -> Iterator[None]:
    """Levels pass and no trains, and nothing but ``trained`` gets a gradient."""
    asked = [(p, p.requires_grad) for p in network.parameters()]
    neurons = [(m, m.packed) for m in network.modules() if isinstance(m, SpikingActivation)]
    try:
        for parameter, _ in asked:
            parameter.requires_grad_(False)
        for parameter in trained:
            parameter.requires_grad_(True)
        for neuron, _ in neurons:
            neuron.packed = True
        yield
    finally:
        for parameter, flag in asked:
            parameter.requires_grad_(flag)
            parameter.grad = None
        for neuron, flag in neurons:
            neuron.packed = flag


def _set(weights: list[nn.Parameter], values: list[Tensor]) -> None:
    for w, value in zip(weights, values, strict=True):
        w.data.copy_(value)
