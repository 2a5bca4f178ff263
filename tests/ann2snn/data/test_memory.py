"""The memory that a machine, its containers, and its GPUs leave."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from sj_parallel_conversion.ann2snn.data import memory
from sj_parallel_conversion.ann2snn.data.memory import available_memory, size_of

CPU, MIB = torch.device("cpu"), 2**20
PAGE = os.sysconf("SC_PAGE_SIZE")


def machine(root: Path, files: dict[str, str]) -> Path:
    """A folder with ``files``; 1000 MiB are free, and there is no limit of the process."""
    for name, text in {"proc/meminfo": "MemTotal: 9 kB\nMemAvailable:  1024000 kB\n", **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def group(path: str, limit: object, usage: int, reclaimable: int, old: bool = False) -> dict[str, str]:
    if old:
        names, path = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"), f"memory/{path}"
    else:
        names = ("memory.max", "memory.current", "inactive_file")
    folder = f"sys/fs/cgroup/{path}".rstrip("/")
    stat = f"anon 77\n{names[2]} {reclaimable}\n{names[2]}_more 5\n"
    return {f"{folder}/{names[0]}": f"{limit}\n", f"{folder}/{names[1]}": f"{usage}\n", f"{folder}/memory.stat": stat}


@pytest.mark.parametrize(
    ("files", "mib"),
    [
        ({}, 1000),
        ({"proc/self/cgroup": "0::/\n"}, 1000),
        ({"proc/self/cgroup": "0::/\n", **group("", "max", 5, 0)}, 1000),
        ({"proc/self/cgroup": "0::/\n", **group("", 400 * MIB, 100 * MIB, 30 * MIB)}, 330),
        ({"proc/self/cgroup": "0::/a/b\n", **group("a/b", 400 * MIB, 100 * MIB, 0)}, 300),
        ({"proc/self/cgroup": "0::/a/b\n", **group("a", 400 * MIB, 100 * MIB, 0), **group("a/b", "max", 1, 0)}, 300),
        ({"proc/self/cgroup": "0::/elsewhere\n", **group("", 400 * MIB, 100 * MIB, 0)}, 300),
        ({"proc/self/cgroup": "0::/\n", **group("", 400 * MIB, 401 * MIB, 0)}, 0),
        ({"proc/self/cgroup": "4:cpu:/x\n3:hugetlb,memory:/docker/x\n0::/\n",
          **group("docker/x", 200 * MIB, 80 * MIB, 5 * MIB, old=True), **group("docker", 2**62, 1, 0, True)}, 125),
        ({"proc/self/cgroup": "3:memory:/docker/x\n", **group("", 200 * MIB, 80 * MIB, 5 * MIB, old=True)}, 125),
        ({"proc/self/cgroup": "2:cpu:/x\n", **group("x", 200 * MIB, 80 * MIB, 5 * MIB, old=True)}, 1000),
        ({"proc/self/cgroup": "0::/\n", **group("", 4000 * MIB, 100 * MIB, 0)}, 1000),
    ],
)  # fmt: skip
def test_what_the_machine_and_its_groups_leave(files: dict[str, str], mib: int, tmp_path: Path) -> None:
    assert available_memory(CPU, machine(tmp_path, files)) == mib * MIB


@pytest.mark.skipif(memory.resource is None, reason="Windows has no ulimit")
def test_a_limit_of_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory.resource, "getrlimit", lambda which: (500 * MIB, -1))
    root = machine(tmp_path, {"proc/self/statm": f"{200 * MIB // PAGE} 5 5 5 0 5 0\n"})
    assert available_memory(CPU, root) == 300 * MIB


def test_without_proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pages = {"SC_PHYS_PAGES": 1000, "SC_PAGE_SIZE": 4096}
    monkeypatch.setattr(os, "sysconf", pages.__getitem__, raising=False)
    assert available_memory(CPU, tmp_path) == 500 * 4096
    monkeypatch.delattr(os, "sysconf")
    monkeypatch.setattr(memory, "resource", None)
    assert available_memory(CPU, tmp_path) == memory._UNKNOWN


def test_of_a_gpu_with_what_torch_holds_unused(monkeypatch: pytest.MonkeyPatch) -> None:
    device = torch.device("cuda", 1)
    figures = {"mem_get_info": (7 * MIB, 80 * MIB), "memory_reserved": 5 * MIB, "memory_allocated": 2 * MIB}
    for name, value in figures.items():
        monkeypatch.setattr(torch.cuda, name, lambda asked, value=value: value if asked == device else None)
    assert available_memory(device) == 10 * MIB


def test_this_machine() -> None:
    assert 0 < available_memory(CPU) < 2**50


def test_size_of_a_structure() -> None:
    assert size_of((torch.zeros(3), {"x": [torch.zeros(2, dtype=torch.int64), 5]}, "text")) == 12 + 16
