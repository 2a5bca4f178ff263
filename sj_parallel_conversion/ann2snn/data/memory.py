"""How much memory there is, and how much values take."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ... import ranks
from ...torch_compat import tree_leaves

resource: Any = import_module("resource") if find_spec("resource") else None  # which Windows lacks

# Of a control group: the file with its limit, that with what it has taken, and what of this can be taken back.
_VERSION_2 = ("memory.max", "memory.current", "inactive_file")
_VERSION_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_UNKNOWN = 8 * 2**30  # where nothing tells how much memory the machine has


def size_of(value: object) -> int:
    """Bytes of the tensors in ``value``, which may be any structure of them."""
    return sum(x.numel() * x.element_size() for x in tree_leaves(value) if isinstance(x, Tensor))


def available_memory(device: torch.device, root: Path = Path("/")) -> int:
    """
    :param device: where values are kept
    :param root: where ``proc`` and ``sys`` are
    :return: bytes that are free there, or that this process is allowed to take, if they are fewer. Ranks on one machine
        share what is free
    """
    backend: Any = getattr(torch, device.type, None)
    if hasattr(backend, "mem_get_info"):  # a GPU
        cached = backend.memory_reserved(device) - backend.memory_allocated(device)
        return backend.mem_get_info(device)[0] + cached
    free = min([_of_machine(root), *_of_groups(root)]) // ranks.on_this_machine()
    return max(0, min([free, *_of_process(root)]))


def _of_machine(root: Path) -> int:
    for line in _lines(root / "proc/meminfo"):
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2  # other systems tell all, not what is free
    except (AttributeError, ValueError, OSError):
        return _UNKNOWN


def _of_process(root: Path) -> list[int]:
    """What ``ulimit -v`` leaves."""
    limit = resource.getrlimit(resource.RLIMIT_AS)[0] if resource else -1
    pages = _numbers(root / "proc/self/statm")
    if limit < 0 or resource is None or limit == resource.RLIM_INFINITY or not pages:
        return []
    return [limit - pages[0] * os.sysconf("SC_PAGE_SIZE")]


def _of_groups(root: Path) -> Iterator[int]:
    """What the control groups of Linux leave, which limit containers: of each group, and of those around it."""
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup" / ("memory" if controllers else "")
        group = top / path.strip().lstrip("/")
        for folder in (group, *(parent for parent in group.parents if parent.is_relative_to(top))):
            yield from _left_in(folder, *(_VERSION_1 if controllers else _VERSION_2))


def _left_in(folder: Path, limit: str, usage: str, reclaimable: str) -> list[int]:
    limits, used = _numbers(folder / limit), _numbers(folder / usage)
    if not (limits and used):
        return []
    files = [int(line.split()[1]) for line in _lines(folder / "memory.stat") if line.startswith(f"{reclaimable} ")]
    return [limits[0] - used[0] + sum(files)]  # the kernel drops files that it has read, if there is need


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []


def _numbers(path: Path) -> list[int]:
    """The numbers in a file; none if it says ``max`` or is not there."""
    return [int(word) for line in _lines(path) for word in line.split() if word.isdigit()]
