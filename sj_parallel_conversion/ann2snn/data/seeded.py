"""Reading of a dataloader with random numbers of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import torch

# Torch has one global generator for all threads. Captures take this lock as well: torch puts the generator back to what
# it was before them.
global_generator = threading.RLock()
_END = object()
T = TypeVar("T")


class SeededLoader:
    """
    A dataloader that draws the same random numbers each time it is read. So a loader that shuffles gives every pass of
    a conversion, and every conversion, the same order. torch's global generator is left as it was.

    :param source: the user's dataloader
    :param seed: of what it draws from torch's global generator (of the CPU)
    """

    def __init__(self, source: Iterable[Any], seed: int) -> None:
        self._source: Any = source  # whose length is asked for, which not every iterable has
        self._seed = seed

    def __len__(self) -> int:
        return len(self._source)

    def __iter__(self) -> Iterator[object]:
        state = torch.Generator().manual_seed(self._seed).get_state()
        batches, state = _with_state(state, lambda: iter(self._source))
        while True:
            batch, state = _with_state(state, lambda: next(batches, _END))
            if batch is _END:
                return
            yield batch


def _with_state(state: torch.Tensor, act: Callable[[], T]) -> tuple[T, torch.Tensor]:
    """What ``act`` returns when torch's global generator is in ``state``, and the state that it leaves."""
    with global_generator:
        kept = torch.get_rng_state()
        torch.set_rng_state(state)
        try:
            return act(), torch.get_rng_state()
        finally:
            torch.set_rng_state(kept)
