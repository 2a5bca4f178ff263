"""How a model is called: its arguments, which of them are tensors, and which of these hold the samples of a batch."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from ...errors import DataError
from .structure import flatten, of_a_leaf

# Arguments of forward that are targets: with them a model computes a loss.
TARGET_KEYS = {
    "label", "labels", "target", "targets", "y", "class_labels", "mask_labels", "next_sentence_label",
    "start_positions", "end_positions", "decoder_labels",
}  # fmt: skip

_PLAIN = (type(None), bool, int, float, str)  # constants that can be compared


class Call(NamedTuple):
    """What a model is called with."""

    args: tuple[Any, ...]
    kwargs: dict[str, object]


class HasForward(Protocol):
    """What is asked for the names of its arguments: any module, or what stands for one."""

    @property
    def forward(self) -> Callable[..., Any]:
        """What a call runs."""


def parameters_of(model: HasForward) -> list[inspect.Parameter]:
    """The parameters of the model's ``forward``; none where they cannot be told."""
    try:
        return list(inspect.signature(model.forward).parameters.values())
    except (TypeError, ValueError):
        return []


def placement(model: nn.Module, device: torch.device | str | None) -> tuple[torch.device, torch.dtype | None]:
    """
    :param model: any module
    :param device: where it goes; ``None``: where it is
    :return: the device, and the dtype that most of its floating values have; ``None`` where it has none
    """
    floats = [p for p in [*model.parameters(), *model.buffers()] if p.is_floating_point()]
    if device is None:
        device = floats[0].device if floats else "cpu"
    counts: dict[torch.dtype, int] = {}
    for value in floats:
        counts[value.dtype] = counts.get(value.dtype, 0) + value.numel()
    return torch.device(device), max(counts, key=counts.__getitem__) if counts else None


class Batch(NamedTuple):
    """
    The tensors among the arguments of a call, in order.

    :param tensors: the tensors
    :param batched: which of them have the batch axis, as their first
    """

    tensors: tuple[Tensor, ...]
    batched: tuple[bool, ...]

    @property
    def size(self) -> int:
        """The number of samples; 1 where no tensor has a batch axis."""
        return next((len(x) for x, b in zip(self.tensors, self.batched, strict=True) if b), 1)

    def split(self, size: int) -> Iterator[Batch]:
        """Parts of ``size`` samples; the last may have fewer."""
        return (self.select(slice(start, start + size)) for start in range(0, self.size, size))

    def select(self, index: slice | Tensor) -> Batch:
        """Some of the samples: a slice, or a mask or numbers of samples."""
        return self._map_batched(lambda x: x[index])

    def extended(self, more: int) -> Batch:
        """With as many samples more, which are there already."""
        numbers = torch.arange(self.size + more) % self.size
        return self._map_batched(lambda x: x[numbers.to(x.device)])

    def clone(self) -> Batch:
        """A copy, which a model may write to, and which autograd takes."""
        return Batch(tuple(x.clone() for x in self.tensors), self.batched)

    def to(self, device: torch.device, dtype: torch.dtype | None) -> Batch:
        """On ``device``, floating tensors in ``dtype``; ``None`` leaves theirs."""
        # from pinned memory a GPU takes a batch while it still computes on the one before
        moved = (x.to(device, non_blocking=device.type == "cuda") for x in self.tensors)
        cast = (x.to(dtype) if dtype is not None and x.is_floating_point() else x for x in moved)
        return Batch(tuple(cast), self.batched)

    def _map_batched(self, change: Callable[[Tensor], Tensor]) -> Batch:
        tensors = (change(x) if b else x for x, b in zip(self.tensors, self.batched, strict=True))
        return Batch(tuple(tensors), self.batched)


class InputForm:
    """
    The form of a model's calls: names of the arguments, structure, constants. A batch of tensors becomes a call, and a
    call of the same form a batch.

    :param model: its ``forward`` gives the names
    :param call: an example
    :raises DataError: if there is no tensor in it
    """

    def __init__(self, model: nn.Module, call: Call) -> None:
        parameters = parameters_of(model)
        self.positional = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        self.by_position = set(self.positional[: len(call.args)])  # hooks see arguments as they are given
        self.defaults = {p.name: p.default for p in parameters if isinstance(p.default, _PLAIN)}
        named = self._named(call)
        leaves, self.structure = flatten(named)
        self.names = list(_leaf_names(named))
        self.is_tensor = [isinstance(leaf, Tensor) for leaf in leaves]
        self.constants = [None if t else leaf for leaf, t in zip(leaves, self.is_tensor, strict=True)]
        if not any(self.is_tensor):
            raise DataError(f"{type(model).__name__} is called without a tensor, so there is nothing to convert")
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        # The first tensor with axes says how many samples there are; what has as many along its first axis is batched.
        size = next((len(x) for x in tensors if x.dim()), 1)
        self.batched = tuple(bool(x.dim()) and len(x) == size for x in tensors)

    @property
    def is_one_tensor(self) -> bool:
        """Whether a call is one tensor and nothing else."""
        return self.is_tensor == [True] and len(self.names) == 1 and "[" not in self.names[0]

    @property
    def tensor_names(self) -> list[str]:
        """The names of the tensors, such as ``input_ids`` or ``features[0]``."""
        return [name for name, t in zip(self.names, self.is_tensor, strict=True) if t]

    def batch(self, call: Call) -> Batch:
        """
        :param call: a call of this form
        :return: its tensors
        :raises DataError: if its form is another; the message says in which argument
        """
        named = self._named(call)
        leaves, structure = flatten(self._without_defaults(named))
        if structure != self.structure:
            self._refuse(named)
        for name, leaf, constant, is_tensor in zip(self.names, leaves, self.constants, self.is_tensor, strict=True):
            if isinstance(leaf, Tensor) != is_tensor or not (is_tensor or _same(leaf, constant)):
                given, kept = _in_words(leaf), "a tensor" if is_tensor else _in_words(constant)
                raise DataError(
                    f"argument {name!r} is {given}, and the network was converted with {kept}. What is no tensor is a "
                    "constant of the conversion: convert with calibration batches that have it as you need it"
                )
        return Batch(tuple(leaf for leaf in leaves if isinstance(leaf, Tensor)), self.batched)

    def call(self, tensors: tuple[Tensor, ...]) -> Call:
        """:param tensors: of a batch. :return: what the model is called with"""
        rest = iter(tensors)
        leaves = [next(rest) if t else constant for t, constant in zip(self.is_tensor, self.constants, strict=True)]
        named = self.structure.unflatten(leaves)
        args = tuple(named[name] for name in self.positional if name in self.by_position)
        kwargs = {name: value for name, value in named.items() if name not in self.by_position and name != "*"}
        return Call(args + tuple(named.get("*", ())), kwargs)

    def _named(self, call: Call) -> dict[str, object]:
        """The arguments by name, in the order of ``forward``; variadic ones under ``*``."""
        named = dict(zip(self.positional, call.args, strict=False))
        rest = call.args[len(self.positional) :]
        repeated = named.keys() & call.kwargs.keys()
        if repeated:
            raise DataError(f"argument {min(repeated)!r} is given twice")
        given = named | call.kwargs
        order = [name for name in self.positional if name in given]
        order += sorted(given.keys() - set(order))
        return {name: given[name] for name in order} | ({"*": rest} if rest else {})

    def _without_defaults(self, named: dict[str, object]) -> dict[str, object]:
        """Without arguments that the example left out, where they have their default value."""
        known = self.structure.unflatten([None] * self.structure.leaves)
        filled = {
            name: value
            for name, value in named.items()
            if name in known or not (name in self.defaults and _same(value, self.defaults[name]))
        }
        missing = {n: self.defaults[n] for n in known if n not in filled and n in self.defaults and n not in named}
        return {name: (filled | missing)[name] for name in [*known, *filled] if name in filled | missing}

    def _refuse(self, named: dict[str, object]) -> None:
        known = self.structure.unflatten(list(self.names))
        extra = [name for name in self._without_defaults(named) if name not in known]
        missing = [name for name in known if name not in named]
        reason = f"unknown argument {extra[0]!r}" if extra else f"argument {missing[0]!r} is missing" if missing else (
            f"an argument is built otherwise; there are {', '.join(_leaf_names(named))}"
        )
        if extra and extra[0] in TARGET_KEYS:
            reason = f"the network takes no targets, and was given {extra[0]!r}"
        raise DataError(
            f"{reason}. The network was converted with {', '.join(self.names)}; give these, or convert with "
            "calibration batches that have all that you need"
        )


def _leaf_names(value: Any, name: str = "") -> Iterator[str]:
    """Names of the leaves of a value in the order of :func:`flatten`, as in ``features[0]``."""
    if not name:
        for key, inner in value.items():
            yield from _leaf_names(inner, key)
        return
    leaves, structure = flatten(value)
    if len(leaves) == 1 and structure == of_a_leaf():
        yield name
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaf_names(inner, f"{name}[{key!r}]")
    elif isinstance(value, (tuple, list)):
        for i, inner in enumerate(value):
            yield from _leaf_names(inner, f"{name}[{i}]")
    else:
        yield from (f"{name}[{i}]" for i in range(len(leaves)))


def _same(value: object, constant: object) -> bool:
    if value is constant:
        return True
    try:
        return type(value) is type(constant) and bool(value == constant)
    except Exception:  # what cannot be compared is another
        return False


def _in_words(value: object) -> str:
    return "a tensor" if isinstance(value, Tensor) else repr(value)


def named_forward(form: InputForm) -> Callable[..., Any]:
    """:return: a function that takes the arguments of ``form`` by name, for what asks a model for them"""

    def forward(*args: object, **kwargs: object) -> None:
        """Never called."""

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    known = {name.partition("[")[0] for name in form.names}
    required = [name for name in form.positional if name in known and name not in form.defaults]
    optional = [name for name in form.positional if name not in required]
    parameters = [inspect.Parameter(name, kind) for name in required]
    parameters += [inspect.Parameter(name, kind, default=form.defaults.get(name)) for name in optional]
    named: Any = forward
    named.__signature__ = inspect.Signature(parameters)
    return forward
