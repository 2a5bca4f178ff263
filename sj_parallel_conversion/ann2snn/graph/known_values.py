"""
Tensors of a model whose values it reads while it is captured, as in ``self.scales.tolist()``: they are constants.

So are tensors that it makes of numbers alone. ``nn.Transformer`` compares its mask with such a one.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...torch_compat import real_tensors, tree_leaves, tree_map

_READERS = {
    Tensor.tolist, Tensor.item, Tensor.__int__, Tensor.__float__, Tensor.__bool__, Tensor.__index__, Tensor.__len__,
    Tensor.numpy, Tensor.__array__, Tensor.equal, Tensor.allclose, Tensor.is_nonzero, torch.equal, torch.allclose,
    torch.is_nonzero,
}  # fmt: skip
_MAKERS = {torch.zeros, torch.ones, torch.full, torch.arange, torch.eye, torch.linspace, torch.tensor}
_LARGEST = 4096  # elements: what a model reads one by one is small


class KnownValues:
    """
    Follows tensors whose values do not depend on the input, beside the capture: buffers, parameters, attributes, what
    is made of numbers, and what is computed of these alone.

    :param model: the model with its values
    """

    def __init__(self, model: nn.Module) -> None:
        self._real = {name: x.detach() for name, x in _stored(model) if x.numel() <= _LARGEST}
        # attributes have values in a capture, but what is computed of them has none
        attributes = tree_leaves([list(vars(module).values()) for module in model.modules()])
        small = [x for x in attributes if isinstance(x, Tensor) and x.numel() <= _LARGEST]
        self._attributes = {id(x): (x, x.detach()) for x in small}
        # by the id of the capture's tensor, which is kept, so that its id stays its own
        self._known: dict[int, _Known] = {}
        self.read: set[str] = set()  # names of stored tensors that have become numbers

    def meet(self, model: nn.Module) -> None:
        """Learn which tensors these are in the capture that begins."""
        self._known.clear()
        self.read.clear()
        with real_tensors():  # copies, which the model may write to
            for name, tensor in _stored(model):
                if name in self._real:
                    self._known[id(tensor)] = _Known(tensor, self._real[name].clone(), frozenset([name]))
            for number, (tensor, value) in self._attributes.items():
                self._known[number] = _Known(tensor, value.clone())

    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, object]) -> object:
        """What ``func`` returns; the value itself, where it reads one that is known."""
        leaves = tree_leaves((args, kwargs))
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        # what depends on a free size has no one value, and to ask for it would fix the size
        is_sized = any(isinstance(leaf, torch.SymInt) for leaf in leaves)
        followed = tensors or func in _MAKERS
        if is_sized or not followed or not all(id(x) in self._known for x in tensors):
            if _writes(func, args, kwargs):
                self._forget(tensors)
            return func(*args, **kwargs)
        real_args, real_kwargs = tree_map(self._real_of, (args, kwargs))
        names = frozenset().union(*(self._known[id(x)].names for x in tensors))
        if func in _READERS:
            self.read |= names
            with real_tensors():
                return func(*real_args, **real_kwargs)
        result = func(*args, **kwargs)
        found = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]  # several, where it is unbound
        if _writes(func, args, kwargs) or (found and all(leaf.numel() <= _LARGEST for leaf in found)):
            with real_tensors(), torch.no_grad():
                real = [leaf for leaf in tree_leaves(func(*real_args, **real_kwargs)) if isinstance(leaf, Tensor)]
            for leaf, value in zip(found, real, strict=False):
                if value.shape == leaf.shape:
                    self._known[id(leaf)] = _Known(leaf, value, names)
        return result

    def _forget(self, tensors: list[Tensor]) -> None:
        """They are written to with what is not known, and so are their views."""
        written = {self._memory(x) for x in tensors if id(x) in self._known}
        if written:
            self._known = {i: known for i, known in self._known.items() if self._memory(known.tensor) not in written}

    def _memory(self, tensor: Tensor) -> int:
        return self._known[id(tensor)].value.untyped_storage().data_ptr()

    def _real_of(self, value: object) -> object:
        return self._known[id(value)].value if isinstance(value, Tensor) else value


class _Known(NamedTuple):
    """
    :param tensor: of the capture, without values
    :param value: the same with values
    :param names: the stored tensors that it is computed of
    """

    tensor: Tensor
    value: Tensor
    names: frozenset[str] = frozenset()


def _writes(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, object]) -> bool:
    """Whether a function may write to one of its arguments."""
    name = getattr(func, "__name__", "")
    if name.startswith("__"):
        return name == "__setitem__" or (name.startswith("__i") and hasattr(operator, name))
    if getattr(func, "__module__", None) == F.__name__ and any(value is True for value in args[1:]):
        return True  # it may be their inplace
    return name.endswith("_") or "out" in kwargs or bool(kwargs.get("inplace"))


def _stored(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_buffers()
    yield from model.named_parameters()
