"""Runs a function in several processes that know each other by ``torch.distributed``."""

from __future__ import annotations

import datetime
import multiprocessing
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import distributed

LIMIT = 300.0  # seconds, after which no process may be waiting for another any more


def in_processes(world: int, *works: Callable[[int], object]) -> list[list[object]]:
    """
    :param world: how many processes
    :param works: done one after the other. They take the number of their process, and are found by their names
    :return: for each of them, what it returned in each process; ``None`` in one that has died
    """
    with tempfile.TemporaryDirectory() as folder:
        context = multiprocessing.get_context("spawn")
        each = [context.Process(target=_run, args=(rank, world, works, folder)) for rank in range(world)]
        for process in each:
            process.start()
        for process in each:
            process.join(LIMIT)
        hanging = [process for process in each if process.is_alive()]
        for process in hanging:
            process.kill()
        assert not hanging, f"{len(hanging)} of {world} processes wait for each other"
        paths = [[Path(folder) / f"{work.__name__}{rank}" for rank in range(world)] for work in works]
        return [[torch.load(p, weights_only=False) if p.exists() else None for p in found] for found in paths]


def _run(rank: int, world: int, works: tuple[Callable[[int], object], ...], folder: str) -> None:
    torch.set_num_threads(1)
    store = f"file://{folder}/store"
    limit = datetime.timedelta(seconds=LIMIT / 2)
    distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=world, timeout=limit)
    for work in works:
        torch.save(work(rank), Path(folder) / f"{work.__name__}{rank}")
