"""From a model and its calibration data to a plain graph that computes the same, and what it takes and returns."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn

from ...errors import ConversionError, DataError
from ...parameters import exact
from ...torch_compat import tree_leaves
from ..data.batches import CalibrationData
from ..data.inputs import Batch
from .activations import find_activations
from .build import build
from .capture import Capture, capture, run_ann
from .constants import name_constants
from .copying import plain_copy
from .formula import Formula
from .naming import Names
from .opaque import forget_objects_with_tensors, refuse_objects_with_tensors
from .operations import module_of
from .passes import replace_module
from .plain import PlainGraph
from .quantisers import recognise
from .side_effects import undone
from .signature import Signature, without_values

_SAMPLES_TRIED = 256  # the most that a try of another size may take


@torch.no_grad()
def graph_of(
    ann: nn.Module, data: CalibrationData, device: torch.device, free_sizes: bool | None = None
) -> tuple[PlainGraph, Signature]:
    """
    :param ann: any module; it is left as it was
    :param data: calibration data, of which the first batch is run; it learns whether the batch size is fixed
    :param device: where the graph goes
    :param free_sizes: as in :func:`~.capture.capture`
    :return: the graph, with layers and activations as modules, and what it takes and returns
    :raises DataError: if the model fails on the first batch
    :raises ConversionError: if it cannot be captured, or computes something else at each call
    """
    net, signature = _freest_graph(ann, data, device, free_sizes)
    forget_objects_with_tensors(signature.outputs)
    return net, signature


def _freest_graph(
    ann: nn.Module, data: CalibrationData, device: torch.device, free_sizes: bool | None
) -> tuple[PlainGraph, Signature]:
    found = _graph_of(ann, data, device, free_sizes, integers=False)
    if not data.fixed_batch:
        return found
    # int(x.shape[0]) fixes the batch size. Where that stays a free size, not all models can be captured.
    try:
        free = _graph_of(ann, data, device, free_sizes, integers=True)
    except ConversionError:
        free = found
    data.fixed_batch = free[1].sizes.fixed_batch
    return found if data.fixed_batch else free


def _graph_of(
    ann: nn.Module, data: CalibrationData, device: torch.device, free_sizes: bool | None, integers: bool
) -> tuple[PlainGraph, Signature]:
    # Two copies: what a run leaves in a model, such as the last size, would be a constant of the capture.
    eager, model = (plain_copy(ann).eval().to(device) for _ in range(2))
    first = data.first()
    with undone(eager):
        expected = run_ann(eager, data.form, first)
        refuse_objects_with_tensors(data.form)
        captured = capture(model, data.form, first, free_sizes, integers)
        names = Names(captured.model)
        net = build(captured, names)
        find_activations(net, names)
        name_constants(net, names)
        _look_at_formulas(net, first)
        data.fixed_batch = captured.sizes.fixed_batch
        sample = without_values(first if data.fixed_batch else first.select(slice(1)))
        signature = Signature(data.form, captured.sizes, captured.outputs, sample)
        _check(ann, expected, net, signature, first)
        _check_second_call(ann, expected, run_ann(eager, data.form, first))
        captured.sizes.allow(first)
        _check_one_sample(eager, captured, net, signature, first)
        again = partial(capture, form=data.form, free_sizes=free_sizes, integers=integers)
        _try_left_out(eager, captured, net, signature, first, lambda x: again(plain_copy(eager), batch=x))
    return net, signature


class _InputRanges(fx.Interpreter):
    """Notes the least and the greatest input of each formula."""

    def __init__(self, model: PlainGraph) -> None:
        super().__init__(model)
        self.extra_traceback = False
        self.ranges: dict[str, tuple[float, float]] = {}

    def call_module(self, target: str, args: tuple[Any, ...], kwargs: dict[str, object]) -> object:
        """As in ``fx.Interpreter``."""
        if isinstance(self.submodules[target], Formula):
            low, high = args[0].aminmax()
            self.ranges[target] = (float(low), float(high))
        return super().call_module(target, args, kwargs)


def _look_at_formulas(net: PlainGraph, batch: Batch) -> None:
    """Find the bounds of composed activations, and which of them are ReLUs or trained quantisers."""
    if not any(isinstance(module, Formula) for module in net.modules()):
        return
    interpreter = _InputRanges(net)
    interpreter.run(*batch.clone().tensors)
    for node in net.graph.nodes:
        formula = module_of(net, node)
        if isinstance(formula, Formula):
            low, high = interpreter.ranges[node.target]
            formula.measure(low, high)
            known = nn.ReLU() if formula.is_relu(low, high) else recognise(formula, high)
            replace_module(net, node.target, known.eval())


def _check(ann: nn.Module, expected: object, net: PlainGraph, signature: Signature, batch: Batch) -> None:
    error = _relative_error(expected, signature.build(net(*batch.clone().tensors)))
    if error is not None:
        raise ConversionError(
            f"the graph that torch.export made of {type(ann).__name__} computes something else than the model "
            f"(relative error {error:.1e}). Usual causes: random numbers, and values that change from call to call"
        )


def _check_second_call(ann: nn.Module, first: object, second: object) -> None:
    """A capture keeps what one call computes: two calls with the same input have to agree."""
    if _relative_error(first, second) is not None:
        raise ConversionError(
            f"{type(ann).__name__} gives another output when it is called a second time with the same input. A "
            "converted network keeps no state from call to call: make the output depend on the input alone in "
            "evaluation mode"
        )


def _check_one_sample(
    eager: nn.Module, captured: Capture, net: PlainGraph, signature: Signature, batch: Batch
) -> None:
    """A capture supposes two samples or more: whether one sample gives the ANN's result is tried."""
    if captured.sizes.fixed_batch or batch.size == 1:
        return
    if not _agree(eager, net, signature, batch.select(slice(1))):
        captured.sizes.smallest_batch = 2


def _try_left_out(
    eager: nn.Module,
    captured: Capture,
    net: PlainGraph,
    signature: Signature,
    batch: Batch,
    recapture: Callable[[Batch], Capture],
) -> None:
    """
    An ANN that keeps the size of its last call compares it with the next, so that the capture leaves that one size out.
    It is tried: twice, because the second call finds its own size.
    """
    most = _SAMPLES_TRIED * sum(x[:1].numel() for x in batch.tensors)
    for example in captured.sizes.left_out(batch, most):
        if _agree(eager, net, signature, example) and _agree(eager, net, signature, example):
            run_ann(eager, signature.form, batch)  # now it keeps another size
            if _stays_free(captured, example, recapture):
                captured.sizes.allow(example)


def _stays_free(captured: Capture, example: Batch, recapture: Callable[[Batch], Capture]) -> bool:
    """Whether its sizes are no case of their own for the ANN, be it together with another size that was not tried."""
    try:
        again = recapture(example)
    except ConversionError:
        return False
    free, still = ([[isinstance(size, str) for size in x] for x in c.sizes.sizes] for c in (captured, again))
    return free == still


def _agree(eager: nn.Module, net: PlainGraph, signature: Signature, batch: Batch) -> bool:
    """Whether the graph gives the ANN's result. Where one of the two fails, it does not."""
    try:
        expected = run_ann(eager, signature.form, batch)
        result = signature.build(net(*batch.clone().tensors))
    except (DataError, RuntimeError):
        return False
    return _relative_error(expected, result) is None


def _relative_error(expected: object, result: object) -> float | None:
    """The largest difference over the largest finite value, output by output; ``None`` where it is rounding."""
    for y, z in zip(tree_leaves(expected), tree_leaves(result), strict=False):
        if isinstance(y, str) and y != z:  # such as one that a size was written into
            return float("inf")
        if not isinstance(y, Tensor) or not y.is_floating_point() or y.numel() == 0:
            continue
        if not isinstance(z, Tensor) or z.shape != y.shape:
            return float("inf")
        finite = y.isfinite()
        if not torch.equal(finite, z.isfinite()):
            return float("inf")
        if not finite.any():
            continue
        tolerance = torch.finfo(y.dtype).eps ** 0.5
        y, z = exact(y[finite]), exact(z[finite])
        error = float((y - z).abs().max() / y.abs().max().clamp_min(1e-30))
        if error > tolerance:
            return error
    return None
