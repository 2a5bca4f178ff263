"""
Several processes that work on one thing, each with its own share of the data, by ``torch.distributed``.

Within :func:`together` the functions below speak with the other processes, the ranks. Outside of it, and in a process
that is alone, they return what they are given. Each of them is called by all ranks, in the same order. A rank that
fails says so in the place of its next call, so that no other waits for it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from itertools import islice
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

from .errors import ConfigError, RankError

T = TypeVar("T")
_ALONE, _TOGETHER = "alone", "together"
_current: ContextVar[str | None] = ContextVar("ranks", default=None)


def check(option: object) -> None:
    """:raises ConfigError: if the option ``distributed`` is not ``None``, ``True`` or ``False``"""
    if option is not None and not isinstance(option, bool):
        raise ConfigError(f"distributed must be None, True or False, got {option!r}")


@contextmanager
def together(option: bool | None, what: str) -> Iterator[None]:
    """
    Within it, the ranks work together. One inside another has no effect.

    :param option: ``None``: if a process group is initialised; ``False``: each process is alone
    :param what: what all of them do, for messages
    :raises ConfigError: if ``True`` is given, and there is no process group
    :raises RankError: if a rank fails, is gone, or does something else
    """
    check(option)
    if _current.get() is not None:
        yield
        return
    if not _wanted(option):
        with alone():
            yield
        return
    token = _current.set(_TOGETHER)
    try:
        _meet(what)
        yield
    except RankError:  # the others know
        raise
    except Exception as error:
        _tell(error, what)
        raise
    finally:
        _current.reset(token)


@contextmanager
def alone() -> Iterator[None]:
    """Within it each rank works for itself, on data that all have."""
    token = _current.set(_ALONE)
    try:
        yield
    finally:
        _current.reset(token)


def count() -> int:
    """How many ranks work together; 1 if this process is alone."""
    return distributed.get_world_size() if _current.get() == _TOGETHER else 1


def number() -> int:
    """Which of them this one is, from 0."""
    return distributed.get_rank() if count() > 1 else 0


def leads() -> bool:
    """Whether this is the one that prints and writes files."""
    return number() == 0


def on_this_machine() -> int:
    """How many of them share its memory, as ``torchrun`` says; all, if nothing says it."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", count())) if count() > 1 else 1


def own(items: Sequence[T]) -> Sequence[T]:
    """This rank's share of ``items``, which all ranks have."""
    return items[number() :: count()]


def total(x: Tensor) -> Tensor:
    """The sum over the ranks, added up in float64, or in int64 for integers."""
    return _reduced(x, torch.float64 if x.is_floating_point() else torch.int64, "SUM")


def largest(x: Tensor) -> Tensor:
    """The largest over the ranks, value by value."""
    return _reduced(x, x.dtype, "MAX")


def largest_in_rows(x: Tensor) -> Tensor:
    """The largest in each row, ``[C, samples] -> [C]``, with those of the other ranks; 0 if there are none."""
    return largest(x.amax(1) if x.shape[1] else x.new_zeros(len(x)))


def mean_of_rows(x: Tensor) -> Tensor:
    """The mean of each row, ``[C, samples] -> [C]``, with the samples of the other ranks."""
    if count() == 1:
        return x.mean(1)
    sums = total(torch.cat([x.double().sum(1), x.new_tensor([x.shape[1]]).double()]))
    return (sums[:-1] / sums[-1].clamp_min(1)).to(x.dtype)


def any_of(flag: bool) -> bool:
    """Whether ``flag`` is true on any rank."""
    return bool(largest(torch.tensor(int(flag))))


def total_of(*numbers: float) -> list[float]:
    """The sum of each of ``numbers``."""
    return total(torch.tensor(numbers, dtype=torch.float64)).tolist() if count() > 1 else list(numbers)


def before(size: int) -> tuple[int, int]:
    """How many of something the ranks before this one have, if it has ``size``, and how many all have."""
    if count() == 1:
        return 0, size
    sizes = _all(torch.tensor(size), "before")
    return int(sizes[: number()].sum()), int(sizes.sum())


def gather(x: Tensor) -> Tensor:
    """``[n, ...]`` of each rank as one tensor, in the order of the ranks. They may have different n."""
    if count() == 1:
        return x
    sizes = _all(torch.tensor(len(x)), "gather").tolist()
    padded = x.new_zeros(max(sizes), *x.shape[1:])
    padded[: len(x)] = x
    parts = _all(padded.byte() if x.dtype == torch.bool else padded, "gather")
    return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)]).to(x)


def own_part(x: Tensor, of: Tensor) -> Tensor:
    """Of what :func:`gather` made of ``of`` ``[n, ...]``, or of as many others, this rank's ``[n, ...]``."""
    return x[(start := before(len(of))[0]) : start + len(of)]


def from_first(x: Tensor) -> Tensor:
    """``x`` as rank 0 has it. All have the same shape and type."""
    return x if count() == 1 else _all(x, "from_first")[0].to(x)


def objects(value: T) -> list[T]:
    """What each rank has, in their order. Tensors in it are on the CPU."""
    if count() == 1:
        return [value]
    _meet("objects")
    found: list[Any] = [None] * count()
    _waiting(lambda: distributed.all_gather_object(found, value))
    return found


def object_of(value: T, rank: int) -> T:
    """``value`` as ``rank`` has it. Tensors in it are on the CPU."""
    if count() == 1:
        return value
    _meet("object_of")
    box = [value]
    _waiting(lambda: distributed.broadcast_object_list(box, src=rank))
    return box[0]


def in_step(items: Iterable[T]) -> Iterator[T | None]:
    """``items``, as many as the rank with most of them has; where this one has no more, ``None``."""
    if count() == 1:
        yield from items
        return
    iterator = iter(items)
    while any_of(bool(found := list(islice(iterator, 1)))):
        yield found[0] if found else None


def average(tensors: Sequence[Tensor], weight: float) -> None:
    """
    Put the weighted mean over the ranks in the place of ``tensors``, such as gradients.

    :param tensors: of one type and device, the same on all ranks; a rank of weight 0 may have anything there
    :param weight: of this rank's, such as its number of images
    """
    if count() == 1 or not tensors:
        return
    flat = torch.cat([x.flatten() * weight if weight else torch.zeros_like(x).flatten() for x in tensors])
    sent = torch.cat([flat, flat.new_tensor([weight])])
    sums = _reduced(sent, sent.dtype, "SUM")
    for x, mean in zip(tensors, (sums[:-1] / sums[-1]).split([x.numel() for x in tensors]), strict=True):
        x.copy_(mean.view_as(x))


def check_same(values: Callable[[], Mapping[str, object]], what: str) -> None:
    """
    :param values: gives tensors by name; what is no tensor is not looked at
    :param what: they belong to, for the message
    :raises RankError: if the ranks do not have the same ones, to the bit; the message names the first that differs
    """
    if count() == 1:
        return
    digests = {name: digest(x) for name, x in values().items() if isinstance(x, Tensor)}
    found = objects(digests)
    names = {name: None for each in found for name in each}
    different = [name for name in names if len({each.get(name) for each in found}) > 1]
    if different:
        raise RankError(
            f"the processes have different networks after {what}: {different[0]!r} and {len(different) - 1} more of "
            f"{len(names)} tensors differ. All need the same network and options, and machines that round alike. After "
            "DistributedDataParallel the buffers of BatchNorms differ: broadcast them from one process"
        )


def _wanted(option: bool | None) -> bool:
    initialised = distributed.is_available() and distributed.is_initialized()
    if option and not initialised:
        raise ConfigError(
            "distributed=True needs a process group: start the program with torchrun, and call "
            "torch.distributed.init_process_group() first"
        )
    return initialised and option is not False and distributed.get_world_size() > 1


def _reduced(x: Tensor, dtype: torch.dtype, operation: str) -> Tensor:
    if count() == 1:
        return x
    _meet(f"reduce {operation} {list(x.shape)} {x.dtype}")
    sent = x.detach().to(_device(), dtype, copy=True).contiguous()
    _waiting(lambda: distributed.all_reduce(sent, getattr(distributed.ReduceOp, operation)))
    return sent.to(x)


def _all(x: Tensor, what: str) -> Tensor:
    """``x`` of each rank, which all have the same shape, ``[ranks, ...]``."""
    _meet(f"{what} {list(x.shape)} {x.dtype}")
    sent = x.detach().to(_device()).contiguous()
    found = [torch.empty_like(sent) for _ in range(count())]
    _waiting(lambda: distributed.all_gather(found, sent))
    return torch.stack(found)


def _device() -> torch.device:
    """Where values are sent from: NCCL takes those of a GPU alone."""
    return torch.device("cuda" if distributed.get_backend() == "nccl" else "cpu")


def _meet(what: str, failure: str | None = None) -> None:
    """Wait until all ranks are here. :raises RankError: if one has failed, or is about to do something else"""
    code = int.from_bytes(hashlib.blake2b(what.encode(), digest_size=7).digest())
    head = torch.tensor([failure is not None, code, -code], dtype=torch.int64, device=_device())
    _waiting(lambda: distributed.all_reduce(head, distributed.ReduceOp.MAX))
    failed, high, low = head.tolist()
    if failed:
        reasons: list[Any] = [None] * count()
        _waiting(lambda: distributed.all_gather_object(reasons, failure))
        found = "; ".join(f"process {i}: {reason}" for i, reason in enumerate(reasons) if reason is not None)
        raise RankError(f"it has failed in another process, so it ends in this one as well. {found}")
    if high != -low:
        raise RankError(
            f"the processes do not do the same: this one is at {what!r}, and another is not. All of them have to make "
            "the same calls, with the same network and options. What one process does alone needs distributed=False"
        )


def _tell(error: Exception, what: str) -> None:
    with suppress(RankError):  # its own error says more
        _meet(what, f"{type(error).__name__}: {error}")


def _waiting(call: Callable[[], object]) -> None:
    try:
        call()
    except RuntimeError as error:
        raise RankError(
            f"another process has not answered: it has ended, or the time-out of the process group is over "
            f"({str(error).splitlines()[0]}). If only some processes are meant to do this, give distributed=False"
        ) from error


def digest(x: Tensor) -> bytes:
    """A number that the bits of ``x`` decide."""
    values = x.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
    return hashlib.blake2b(values.tobytes(), digest_size=8).digest()
