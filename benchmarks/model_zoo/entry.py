"""What the benchmark knows of a model: how to build it, and what to call it with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

# one argument, keyword arguments, or the images of a detector
Batch = Tensor | dict[str, Tensor] | list[Tensor]


@dataclass(frozen=True)
class Entry:
    """
    One model of the table.

    :param library: the package that the model comes from
    :param name: of the model in that package
    :param build: makes it, with random weights
    :param batch: makes random inputs for a number of samples
    :param parts: the submodules to convert where the model cannot be converted whole; empty: the whole model
    """

    library: str
    name: str
    build: Callable[[], nn.Module]
    batch: Callable[[int], Batch]
    parts: tuple[str, ...] = ()


def call(function: Callable[..., object], batch: Batch) -> object:
    """
    :param function: a model, or a method of one
    :param batch: what its dataloader yields
    :return: what it returns for that batch
    """
    return function(**batch) if isinstance(batch, Mapping) else function(batch)


def tensors_of(outputs: object) -> list[Tensor]:
    """
    :param outputs: what a model returned: a tensor, or any nesting of tuples, lists and dicts
    :return: the floating-point tensors in it
    """
    return list(_tensors(outputs))


def _tensors(outputs: object) -> Iterator[Tensor]:
    if isinstance(outputs, Mapping):  # a ModelOutput of transformers is one, and may be unknown to torch's pytree
        outputs = list(outputs.values())
    for leaf in tree_leaves(outputs):
        if isinstance(leaf, Tensor) and leaf.is_floating_point():
            yield leaf
        elif isinstance(leaf, Mapping):
            yield from _tensors(leaf)


def images(*shape: int) -> Callable[[int], Tensor]:
    """
    :param shape: of one image
    :return: makes a batch of noise images
    """
    return lambda n: torch.randn(n, *shape)
