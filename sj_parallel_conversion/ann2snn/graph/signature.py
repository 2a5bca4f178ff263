"""What a captured network takes and returns: arguments, sizes, and the ANN's own types."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...errors import DataError
from ..data.inputs import Batch, Call, InputForm
from ..data.structure import flatten
from .capture import Outputs
from .sizes import Sizes


@dataclass
class Signature:
    """
    :param form: how the network is called
    :param sizes: of its inputs
    :param outputs: what it returns
    :param sample: one sample, on the device ``meta``, where tensors have a shape and no values; a whole batch where its
        size is fixed
    """

    form: InputForm
    sizes: Sizes
    outputs: Outputs
    sample: Batch

    def batch(self, args: tuple[Any, ...], kwargs: dict[str, object]) -> Batch:
        """
        :param args: what the network is called with
        :param kwargs: the same, by name
        :return: the tensors among them
        :raises DataError: if they do not have the form or the sizes of the calibration data
        """
        batch = self._batch(args, kwargs)
        for name, x, sample in zip(self.form.tensor_names, batch.tensors, self.sample.tensors, strict=True):
            if x.dim() != sample.dim():
                raise DataError(
                    f"the network needs an input [N, {_sizes(sample)}] (or of other sizes) as {name!r}, got shape "
                    f"{list(x.shape)}. For a sequence [T, N, ...] call functional.set_step_mode(snn, 'm') first"
                )
        self.sizes.check(batch)
        return batch

    def sequence(self, args: tuple[Any, ...], kwargs: dict[str, object], time_steps: int) -> Batch:
        """As :meth:`batch`, where each tensor has a time axis ``[T, ...]`` in front."""
        batch = self._batch(args, kwargs)
        for name, x, sample in zip(self.form.tensor_names, batch.tensors, self.sample.tensors, strict=True):
            if x.dim() != sample.dim() + 1 or x.shape[0] != time_steps:
                raise DataError(
                    f"step mode 'm' needs an input [T={time_steps}, N, {_sizes(sample)}], got shape {list(x.shape)} as "
                    f"{name!r}. For one static input [N, ...] use snn.predict(x)"
                )
        self.sizes.check(Batch(tuple(x[0] for x in batch.tensors), batch.batched))
        return batch

    def zeros(self, device: torch.device, dtype: torch.dtype | None) -> Batch:
        """An input of zeros that the network takes, on ``device``; floats are of ``dtype``."""
        tensors = tuple(torch.zeros_like(x, device=device) for x in self.sample.tensors)
        batch = Batch(tensors, self.sample.batched).to(device, dtype)
        return batch if self.sizes.fixed_batch else batch.extended(self.sizes.smallest_batch - 1)

    def build(self, tensors: tuple[Any, ...]) -> object:
        """What the ANN returns, of its tensors."""
        return tensors[0] if self.outputs.is_one_tensor else self.outputs.build(tensors)

    def map_outputs(self, change: Callable[[Tensor], object], value: object) -> object:
        """``value``, which is built as an output, with each tensor changed."""
        leaves, structure = flatten(value)
        return structure.unflatten([change(leaf) if isinstance(leaf, Tensor) else leaf for leaf in leaves])

    def _batch(self, args: tuple[Any, ...], kwargs: dict[str, object]) -> Batch:
        if self.form.is_one_tensor and len(args) == 1 and not kwargs:  # quick, and plain for torch.compile
            if not isinstance(args[0], Tensor):
                hint = "; write **batch for a dict of arguments" if isinstance(args[0], Mapping) else ""
                raise DataError(f"the network takes one tensor, got {type(args[0]).__name__}{hint}")
            batch = Batch(args, self.form.batched)
        else:
            batch = self.form.batch(Call(args, kwargs))
        return _expanded(batch)


def without_values(batch: Batch) -> Batch:
    """Shapes and dtypes of a batch."""
    return Batch(tuple(torch.empty_like(x, device="meta") for x in batch.tensors), batch.batched)


def _expanded(batch: Batch) -> Batch:
    """One row that serves all samples, such as positions ``[1, L]``, is given to each of them."""
    sizes = {len(x) for x, batched in zip(batch.tensors, batch.batched, strict=True) if batched and x.dim()}
    if len(sizes) != 2 or 1 not in sizes:
        return batch
    size = max(sizes)
    pairs = zip(batch.tensors, batch.batched, strict=True)
    return Batch(tuple(x.expand(size, *x.shape[1:]) if b and len(x) == 1 else x for x, b in pairs), batch.batched)


def _sizes(sample: Tensor) -> str:
    return ", ".join(map(str, sample.shape[1:]))
