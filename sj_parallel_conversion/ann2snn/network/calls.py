"""What the submodules of a model are called with while the model runs on the calibration data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import ConversionError, DataError, SJPCError
from ...torch_compat import tree_leaves, tree_map
from ..data.batches import model_call
from ..data.inputs import Call, placement
from ..data.source import Batches, Source
from ..graph.macs import MacCounter


class PartData:
    """
    Calls of a whole model, one a batch, on its device and in its dtype. Each has tensors of its own, which the model
    may write to.

    :param model: the model
    :param dataloader: calibration data for it
    :param device: where the model is; ``None``: where its parameters are
    """

    def __init__(self, model: nn.Module, dataloader: Iterable[Any] | None, device: torch.device | str | None) -> None:
        self._model, self._source = model, Source.of(dataloader)
        self._device, self._dtype = placement(model, device)

    def __iter__(self) -> Iterator[Call]:
        return (self._call(batch, i) for i, batch in enumerate(self._source))

    def first(self) -> Call:
        """The same each time. :raises DataError: if there is no batch"""
        return self._call(self._source.first(), 0)

    def _call(self, batch: object, index: int) -> Call:
        return Call(*tree_map(self._own, tuple(model_call(self._model, batch, index))))

    def _own(self, x: object) -> object:
        if not isinstance(x, Tensor):
            return x
        moved = x.to(self._device)
        return (moved.to(self._dtype) if moved.is_floating_point() else moved).clone()


class SubmoduleInputs(Batches):
    """
    What a submodule is called with while the whole model runs on the calibration data. The model runs anew each time
    this is iterated over, so that no inputs are kept.

    :param model: the whole model, in evaluation mode; left as it was
    :param name: the submodule
    :param data: the calls of the model
    """

    def __init__(self, model: nn.Module, name: str, data: PartData) -> None:
        self._model, self._name, self._data = model, name, data
        self._first: Call | None = None

    def first(self) -> Call:
        """Of the first batch of the model in which it is called, the same each time."""
        if self._first is None:
            self._first = next(chain(self._calls(self._data.first()), self))
        return self._first

    def __iter__(self) -> Iterator[Call]:
        seen = False
        for call in self._data:
            for inner in self._calls(call):
                seen = True
                yield inner
        if not seen:
            within = next((name for name, _ in self._model.get_submodule(self._name).named_children()), None)
            hint = "" if within is None else f". Name what it contains instead, as {self._name + '.*'!r}"
            raise DataError(
                f"submodule {self._name!r} is not called when the model runs on the calibration data, or with empty "
                f"tensors only{hint}"
            )

    def _calls(self, call: Call) -> list[Call]:
        found: list[Call] = []
        _run_with([_listen(self._model.get_submodule(self._name), found.append)], self._model, call)
        return [inner for inner in found if _is_filled(inner)]


@torch.no_grad()
def first_calls(model: nn.Module, call: Call) -> dict[str, Call]:
    """
    :param model: any module
    :param call: what it is called with
    :return: what each submodule is first called with where no tensor is empty
    """
    found: dict[str, Call] = {}
    hooks = []

    def keep(name: str, inner: Call) -> None:
        if _is_filled(inner):
            found.setdefault(name, inner)

    for name, module in model.named_modules(remove_duplicate=False):
        if name:
            hooks.append(_listen(module, partial(keep, name)))
    _run_with(hooks, model, call)
    return found


@torch.no_grad()
def with_graded_inputs(model: nn.Module, names: list[str], call: Call) -> set[str]:
    """Those of the submodules before which something is multiplied: their inputs come from other layers."""
    graded: set[str] = set()
    hooks = []
    with MacCounter() as counter:
        for name in names:
            hooks.append(
                model.get_submodule(name).register_forward_pre_hook(
                    lambda module, args, name=name: graded.add(name) if counter.total else None
                )
            )
        _run_with(hooks, model, call)
    return graded


@torch.no_grad()
def refuse_written_inputs(model: nn.Module, names: list[str], data: PartData) -> None:
    """
    A spiking network leaves its input as it is. An in-place ReLU at the start of a submodule does not.

    :param model: the whole model
    :param names: the submodules that spiking networks will stand for
    :param data: the calls of the model, of which the first is run
    :raises ConversionError: if a submodule writes to its input and the model reads it afterwards, so that its output
        depends on it
    """
    writing: set[str] = set()
    given: dict[str, list[Call]] = {name: [] for name in names}
    hooks = []
    for name in names:
        module = model.get_submodule(name)
        hooks.append(_listen(module, given[name].append))

        def compare(
            module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, object], y: object, name: str = name
        ) -> None:
            if not _close((args, kwargs), tuple(given[name].pop())):
                writing.add(name)

        hooks.append(module.register_forward_hook(compare, with_kwargs=True))
    expected = _run_with(hooks, model, data.first())
    if not writing:
        return
    hooks = []
    for name in writing:
        module = model.get_submodule(name)
        hooks.append(module.register_forward_pre_hook(lambda module, *call: tree_map(_copy, call), with_kwargs=True))
    if not _close(expected, _run_with(hooks, model, data.first())):
        raise ConversionError(
            f"{', '.join(map(repr, sorted(writing)))} of the submodules writes to its input, as nn.ReLU(inplace=True) "
            "does, and the model reads it afterwards; a spiking network does not write to it. Set inplace=False if "
            "that is not meant, or convert a submodule that contains both"
        )


def _run_with(hooks: list[Any], model: nn.Module, call: Call) -> object:
    try:
        return run_model(model, call)
    finally:
        for hook in hooks:
            hook.remove()


def _copy(x: object) -> object:
    return x.detach().clone() if isinstance(x, Tensor) else x


def _close(value: object, other: object) -> bool:
    pairs = zip(tree_leaves(value), tree_leaves(other), strict=True)
    tensors = [(x, y) for x, y in pairs if isinstance(x, Tensor)]
    return all(x.shape == y.shape and torch.allclose(x, y, 1e-3, 1e-5, equal_nan=True) for x, y in tensors)


def run_model(model: nn.Module, call: Call) -> object:
    """:raises DataError: if ``model`` cannot be called with these"""
    try:
        return model(*call.args, **call.kwargs)
    except SJPCError:
        raise
    except Exception as error:
        raise DataError(f"{type(model).__name__} itself fails on a calibration batch: {error}") from error


def _listen(module: nn.Module, keep: Callable[[Call], object]) -> object:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, object]) -> None:
        keep(Call(*tree_map(_copy, (args, kwargs))))

    # after the module's own: what they change is part of the call
    return module.register_forward_pre_hook(hook, with_kwargs=True)


def _is_filled(call: Call) -> bool:
    tensors = [x for x in tree_leaves(tuple(call)) if isinstance(x, Tensor)]
    return bool(tensors) and all(x.numel() for x in tensors)
