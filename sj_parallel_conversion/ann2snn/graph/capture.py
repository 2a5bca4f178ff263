"""
Capture: a model runs once under ``torch.export``, and what happened becomes a program on ATen operators.

The model sees tensors without values, so that a capture costs little time and no memory. Loops, conditions, hooks and
attributes are in the program as they ran.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from ...errors import ConversionError, DataError
from ...torch_compat import FREE, QuietError, attention_without_fastpath, export, is_about_values
from ..data.inputs import Batch, InputForm
from ..data.seeded import global_generator
from ..data.structure import Structure, flatten, of_a_leaf
from .known_values import KnownValues
from .leaves import LeafCall, calls, whole_leaves
from .lengths import free_lengths
from .long_sizes import LongSizesError
from .side_effects import undone
from .sizes import Sizes, sizes_of

_lock = global_generator  # two captures at once disturb each other, and what draws random numbers beside them


@dataclass
class Outputs:
    """
    What a model returns.

    :param structure: of its output
    :param leaves: its leaves, with ``None`` in the place of each tensor
    :param is_tensor: which of them are tensors, or sizes
    :param is_one_tensor: whether a tensor, or a size, is returned and nothing else
    """

    structure: Structure = field(default_factory=of_a_leaf)
    leaves: list[object] = field(default_factory=list)
    is_tensor: list[bool] = field(default_factory=list)
    is_one_tensor: bool = False

    def take(self, value: object) -> tuple[Any, ...]:
        """Learn the form of ``value``. :return: its tensors"""
        leaves, self.structure = flatten(value)
        self.is_one_tensor = isinstance(value, (Tensor, torch.SymInt))
        self.is_tensor = [isinstance(leaf, (Tensor, torch.SymInt)) for leaf in leaves]
        self.leaves = [None if t else leaf for leaf, t in zip(leaves, self.is_tensor, strict=True)]
        return tuple(leaf for leaf, t in zip(leaves, self.is_tensor, strict=True) if t)

    def build(self, tensors: tuple[Any, ...]) -> object:
        """What the model returns, of its tensors."""
        rest = iter(tensors)
        leaves = [next(rest) if t else leaf for leaf, t in zip(self.leaves, self.is_tensor, strict=True)]
        return self.structure.unflatten(leaves)


@dataclass
class Capture:
    """
    :param program: what the model computes
    :param model: the copy of the model that was captured; it has the values
    :param calls: its leaves, by the number of their operator
    :param outputs: what it returns
    :param sizes: of its inputs
    :param read: names of buffers that the model has read as numbers
    """

    program: ExportedProgram
    model: nn.Module
    calls: dict[int, LeafCall]
    outputs: Outputs
    sizes: Sizes
    read: frozenset[str]


class CaptureError(ConversionError):
    """A model that runs, and that cannot be captured."""


@dataclass
class _Run:
    """What one run of a model needs and leaves: no dict, because a capture would put that back."""

    form: InputForm
    values: KnownValues
    outputs: Outputs = field(default_factory=Outputs)


class _Root(nn.Module):
    """A model that takes and returns tensors alone."""

    def __init__(self, model: nn.Module, run: _Run) -> None:
        super().__init__()
        self.model, self.run = model, run

    def forward(self, *tensors: Tensor) -> tuple[Any, ...]:
        self.run.values.meet(self.model)
        args, kwargs = self.run.form.call(tensors)
        self.run.outputs = Outputs()
        try:
            return self.run.outputs.take(self.model(*args, **kwargs))
        except Exception as error:
            raise QuietError(str(error)) from error


def capture(
    model: nn.Module, form: InputForm, batch: Batch, free_sizes: bool | None = None, integers: bool = False
) -> Capture:
    """
    :param model: a :func:`~.copying.plain_copy` in the mode that is wanted; the ``forward`` of its leaves is replaced
    :param form: how it is called
    :param batch: an example, on the model's device
    :param free_sizes: whether sizes behind the batch axis stay free where the model allows it. ``None``: unless their
        expressions grow long, see :mod:`.long_sizes`
    :param integers: whether sizes stay free that the model makes an ``int`` of
    :return: what it computes
    :raises CaptureError: if the model runs and cannot be captured; the message names the line of the model
    """
    with _lock, undone(model), attention_without_fastpath(), free_lengths(model, integers):
        with whole_leaves(model, free_sizes is None) as values:
            return _first_that_works(_Root(model, _Run(form, values)), batch, free_sizes)


def _first_that_works(root: _Root, batch: Batch, free_sizes: bool | None) -> Capture:
    errors: list[Exception] = []
    fixed: Capture | None = None
    *tries, last = _tries(batch, free_sizes)
    for example, free in tries:
        found = _try(root, example, free, errors)
        if found is not None and (example.size == batch.size or not found.sizes.fixed_batch):
            return found  # a model that holds the size of a longer example holds one that is not the data's
        if found is None and fixed is None and (is_about_values(errors[-1]) or len(errors) > 1):
            # A model that fails with all sizes fixed fails in the other tries too, and each of them takes as long.
            fixed = _try(root, *last, errors)
            if fixed is None:
                raise _refusal(root.model, errors)
    fixed = fixed or _try(root, *last, errors)
    if fixed is None:
        raise _refusal(root.model, errors)
    return fixed


def _try(root: _Root, example: Batch, free: tuple[dict[int, object], ...], errors: list[Exception]) -> Capture | None:
    calls.clear()
    form = root.run.form
    try:
        program = export(root, example.tensors, free)
    except Exception as error:
        cause = error.__cause__ if isinstance(error, QuietError) else None
        errors.append(cause if isinstance(cause, Exception) else error)
        return None
    sizes = sizes_of(program, form.tensor_names, form.batched)
    return Capture(program, root.model, dict(calls), root.run.outputs, sizes, frozenset(root.run.values.read))


def _refusal(model: nn.Module, errors: list[Exception]) -> CaptureError:
    error = next((e for e in errors if not isinstance(e, LongSizesError)), errors[0])
    refusal = CaptureError(
        f"{type(model).__name__} runs on the calibration data, but torch.export cannot capture it: {_reason(error)}\n"
        f"{_user_line(error)}Control flow that depends on the values of tensors cannot be captured. Write it with "
        "operations on tensors, keep the module that it stands in whole with "
        "sj_parallel_conversion.register_leaf(type), or convert the parts that compute"
    )
    refusal.__cause__ = error
    return refusal


def _tries(batch: Batch, free_sizes: bool | None) -> Iterator[tuple[Batch, tuple[dict[int, object], ...]]]:
    """Examples and their free axes, the freest first."""
    # A size that the model has seen before may be among its constants, and a size of 1 is taken for one.
    for more in (1, batch.size + 3):
        example = batch.extended(more)
        if free_sizes is not False:
            yield example, tuple({i: FREE for i, size in enumerate(x.shape) if size > 1} for x in example.tensors)
        yield example, tuple({0: FREE} if b else {} for b in example.batched)
    yield batch, tuple({} for _ in batch.tensors)


@torch.no_grad()
def run_ann(model: nn.Module, form: InputForm, batch: Batch) -> object:
    """
    :param model: a copy of the ANN
    :param form: how it is called
    :param batch: its inputs
    :return: what it returns
    :raises DataError: if it fails; the message names the line of the model
    """
    args, kwargs = form.call(batch.clone().tensors)
    try:
        return model(*args, **kwargs)
    except Exception as error:
        shapes = ", ".join(f"{n} {list(x.shape)}" for n, x in zip(form.tensor_names, batch.tensors, strict=True))
        raise DataError(
            f"{type(model).__name__} itself fails on a calibration batch ({shapes}){_failing_module(model, error)}: "
            f"{error}\n{_user_line(error)}"
        ) from error


def _failing_module(model: nn.Module, error: Exception) -> str:
    """The innermost module of the model that the traceback goes through."""
    names = {id(module): name for name, module in model.named_modules() if name}
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    found = [names[id(f.f_locals["self"])] for f in frames if id(f.f_locals.get("self")) in names]
    return f", at {found[-1]!r}" if found else ""


def _reason(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _user_line(error: Exception) -> str:
    """The innermost line of the traceback that belongs neither to torch nor to this package."""
    own = (f"{Path(torch.__file__).parent}{os.sep}", f"{Path(__file__).parents[2]}{os.sep}")
    libraries = (sys.prefix + "/lib/python", sys.base_prefix + "/lib/python")
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith((*own, "<"))]
    frames = [f for f in frames if not f.filename.startswith(libraries)] or frames
    return f"at {frames[-1].filename}, line {frames[-1].lineno}: {frames[-1].line}\n" if frames else ""
