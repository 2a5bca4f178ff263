"""Calibration batches: whatever a loader yields becomes a stream of calls, and of the tensors in them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ... import ranks
from ...errors import DataError, as_data_error
from ...torch_compat import tree_leaves
from .cache import Spool
from .inputs import TARGET_KEYS, Batch, Call, HasForward, InputForm, parameters_of
from .source import Source

# What the input is called in mappings, the most telling name first.
_INPUT_KEYS = (
    "image", "images", "pixel_values", "img", "input_ids", "input_values", "input_features", "input", "inputs", "x",
    "data", "features",
)  # fmt: skip
_ELEMENTS = 2**21  # of an input at once: 13 images of 224 x 224, whatever the batch size of the dataloader


def model_call(model: HasForward, batch: object, index: int) -> Call:
    """
    What a model is called with for one batch.

    - a tensor is the first argument
    - of a tuple or list, as many elements as ``model.forward`` requires; the others are targets
    - of a mapping, the values under names of arguments of ``forward``, as keywords; targets (``labels`` and the like)
      are left out where they are optional. A mapping without such names holds one input: the value under a usual name
      (``image``, ``pixel_values``, ...), or its only tensor
    - a list of images ``[C, H, W]``, which detection models take, is one argument; alone, without targets, they are
      told from sequences by their 1 or 3 channels

    :param model: the model
    :param batch: what a dataloader yielded
    :param index: its number, for the error message
    :return: the call
    :raises DataError: if there is no tensor in it, it is not clear which is the input, or a tensor is empty, complex or
        sparse, or has NaN or infinite values
    """
    call = batch if isinstance(batch, Call) else _find_call(model, batch, index)
    tensors = [leaf for leaf in tree_leaves((call.args, call.kwargs)) if isinstance(leaf, Tensor)]
    if not tensors:
        raise DataError(
            f"dataloader: batch {index} is a {type(batch).__name__} in which no input tensor was found; "
            'yield x, (x, y, ...), (x,) or {"image": x}'
        )
    for x in tensors:
        _check(x, index)
    if len(tensors) == 1 and tensors[0].dim() < 2:
        raise DataError(
            f"dataloader: batch {index} has shape {list(tensors[0].shape)}; give batches [N, ...] with N >= 1"
        )
    return call


def _find_call(model: HasForward, batch: object, index: int) -> Call:
    if isinstance(batch, Mapping):
        return _from_mapping(model, batch, index)
    if not isinstance(batch, (tuple, list)) or not batch:
        return Call((batch,), {})
    required = [p for p in parameters_of(model) if p.default is p.empty and p.kind <= p.POSITIONAL_OR_KEYWORD]
    if 1 < len(required) <= len(batch):
        return Call(tuple(batch[: len(required)]), {})
    if all(map(_is_image, batch)):
        return Call((list(batch),), {})
    if isinstance(batch[0], (tuple, list)) and batch[0] and all(map(_has_three_axes, batch[0])):
        return Call((list(batch[0]),), {})
    return _find_call(model, batch[0], index)


def _from_mapping(model: HasForward, batch: Mapping[str, Any], index: int) -> Call:
    parameters = {p.name: p for p in parameters_of(model) if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    named = {key: value for key, value in batch.items() if key in parameters}
    inputs = {k: v for k, v in named.items() if k not in TARGET_KEYS or parameters[k].default is parameters[k].empty}
    if inputs:
        missing = [p.name for p in parameters.values() if p.default is p.empty and p.name not in inputs]
        if missing:
            raise DataError(
                f"dataloader: batch {index} lacks {', '.join(missing)}, which {type(model).__name__}.forward needs; "
                f"its keys are {', '.join(map(str, batch))}"
            )
        return Call((), inputs)
    tensors = {key: value for key, value in batch.items() if isinstance(value, Tensor)}
    usual = [key for key in _INPUT_KEYS if key in tensors]
    if not usual and len(tensors) != 1:
        raise DataError(
            f"dataloader: batch {index} is a mapping with the keys {', '.join(map(str, batch))}, and which of them is "
            f"the input of {type(model).__name__} is not clear. Use names of arguments of its forward "
            f"({', '.join(parameters) or 'it names none'}), or yield the input alone"
        )
    return Call((tensors[usual[0]] if usual else next(iter(tensors.values())),), {})


def _is_image(x: object) -> bool:
    # a list of two may also be sequences and targets that are as long, [N, L, C]
    return isinstance(x, Tensor) and _has_three_axes(x) and x.shape[0] in (1, 3)


def _has_three_axes(x: object) -> bool:
    return isinstance(x, Tensor) and x.dim() == 3 and x.is_floating_point()


def _check(x: Tensor, index: int) -> None:
    if x.is_complex() or x.layout != torch.strided:
        raise DataError(f"dataloader: batch {index} is {x.dtype}, {x.layout}; give dense tensors of real values")
    if x.numel() == 0:
        raise DataError(f"dataloader: batch {index} has shape {list(x.shape)}; give batches [N, ...] with N >= 1")
    if x.is_floating_point() and not torch.isfinite(x).all():
        raise DataError(f"dataloader: batch {index} has NaN or infinite values")


class CalibrationData:
    """
    The calibration data as a re-iterable stream of batches on one device, in the model's dtype.

    :param dataloader: any iterable of batches
    :param model: what is called with them
    :param device: where the batches go
    :param dtype: floating batches are cast to it; ``None`` leaves them
    :param show_progress: whether :meth:`batches` draws a bar
    :param spool: keeps what calibrations compute from the batches; ``None``: with the usual limit
    :raises DataError: if ``dataloader`` is None, not iterable or empty
    """

    def __init__(
        self,
        dataloader: Iterable[Any],
        model: nn.Module,
        device: torch.device,
        dtype: torch.dtype | None,
        show_progress: bool,
        spool: Spool | None = None,
    ) -> None:
        self._source, self._model = Source.of(dataloader), model
        self.device, self.dtype, self._show_progress = device, dtype, show_progress
        self.spool = Spool(device=device) if spool is None else spool
        self._latest = "dataloader"
        self._first = model_call(model, self._source.first(), 0)
        self.form = InputForm(model, self._first)
        self.fixed_batch = False  # whether the model runs on whole batches alone

    def first(self) -> Batch:
        """The first batch."""
        return self.form.batch(self._first).to(self.device, self.dtype)

    def example(self) -> Batch:
        """Two samples of the first batch, which show what is an axis of the batch; all where the batch is fixed."""
        first = self.first()
        if self.fixed_batch:
            return first
        return (first.extended(1) if first.size == 1 else first).select(slice(2))

    def parts(self, batch: Batch, size: int) -> list[Batch]:
        """``batch`` in parts of ``size`` samples, or whole where the model's batch size is fixed."""
        return [batch] if self.fixed_batch else list(batch.split(size))

    def naming_batches(self) -> AbstractContextManager[Any]:
        """Within it, what torch raises on a batch becomes a DataError that names the batch."""
        return as_data_error(lambda: f"{self._latest} cannot be run by the network")

    def batches(self, description: str) -> Iterator[Batch]:
        """
        :param description: the label of the progress bar
        :return: the tensors of each call; of a large one in parts
        :raises DataError: if there are none, or a batch is unusable or of another form than the first
        """
        hidden = not (self._show_progress and ranks.leads())
        bar = {"desc": description, "total": self._source.length, "disable": hidden, "leave": False}
        for count, batch in enumerate(tqdm(self._source, **bar)):
            try:
                inputs = self.form.batch(model_call(self._model, batch, count))
            except DataError as error:
                if str(error).startswith("dataloader"):
                    raise
                raise DataError(f"dataloader: batch {count} differs from the first: {error}") from error
            self._latest = f"dataloader: batch {count} of shape {_shapes(inputs)}"
            yield from self._small(inputs.to(self.device, self.dtype))

    def _small(self, batch: Batch) -> list[Batch]:
        """``batch`` in parts of about equal size, if it is so large that its activations would take much memory."""
        largest = max((x.numel() for x in batch.tensors), default=0)
        count = min(batch.size, -(-largest // _ELEMENTS))
        return [batch] if count < 2 else self.parts(batch, -(-batch.size // count))


def _shapes(batch: Batch) -> str:
    return ", ".join(str(list(x.shape)) for x in batch.tensors)
