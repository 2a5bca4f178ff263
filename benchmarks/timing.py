"""Times and peak memory of functions that are compared with each other."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from tqdm import tqdm

Contestants = dict[str, Callable[[], object]]


@torch.no_grad()
def alternating(
    contestants: Contestants, seconds: float, progress: str, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """
    Run all contestants in turn, again and again, so that other work on the machine slows all of them alike. Each round
    begins with another one, so that what a run leaves behind in the caches meets all of them alike, too.

    :param contestants: what to run; the first is what others are compared with
    :param seconds: how long; each runs twice at least
    :param progress: name of the progress bar
    :param clock: gives seconds
    :return: for each contestant the seconds of its runs; slow ones, which would take all the time, sit out rounds
    """
    times: dict[str, list[float]] = {name: [] for name in contestants}
    names = list(contestants)
    for run in contestants.values():
        run()  # to warm up
    end, share = time.perf_counter() + seconds, seconds / len(contestants)
    with tqdm(desc=progress, leave=False) as bar:
        while time.perf_counter() < end or min(map(len, times.values())) < 2:
            for name in names:
                if sum(times[name]) > share and len(times[name]) >= 2 and name != next(iter(contestants)):
                    continue
                start = clock()
                contestants[name]()
                times[name].append(clock() - start)
            names.append(names.pop(0))
            bar.update()
    return times


def ratios(times: dict[str, list[float]]) -> dict[str, float]:
    """
    :param times: of :func:`alternating`
    :return: the median time of each contestant over that of the first, round by round
    """
    first = next(iter(times.values()))
    return {name: median(a / b for a, b in zip(own, first, strict=False)) for name, own in times.items()}


def peak_memory(run: Callable[[torch.Tensor], object], x: torch.Tensor) -> float | None:
    """
    :param run: a function that can be pickled
    :param x: its input
    :return: MiB that three calls in a fresh process need beyond what is there before them; ``None`` where the system
        does not tell (it takes Linux)
    """
    if not Path("/proc/self/clear_refs").exists():
        return None
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "run.pt"
        torch.save((run, x, torch.get_num_threads()), file)
        command = [sys.executable, __file__, str(file)]
        return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def _memory(name: str) -> float:
    """A line of /proc/self/status in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{name}:"))


@torch.no_grad()
def _measure(file: str) -> float:
    run, x, threads = torch.load(file, weights_only=False)
    torch.set_num_threads(threads)
    before = _memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    for _ in range(3):
        run(x)
    return _memory("VmHWM") - before


if __name__ == "__main__":
    print(_measure(sys.argv[1]))
