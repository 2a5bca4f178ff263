"""Runs tests in forks of a process that has torch imported, with one file of the package in another version.

A fork takes a hundredth of the time that importing torch takes. The package is imported in the fork alone.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import json
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

LIMIT = 60  # seconds of the processor for a fork
LONGEST = 2  # and for a test
EXAMPLES = 10  # of each hypothesis test


@dataclass
class Recording:
    """
    :param seconds: of the processor, for each test
    :param lines: for each test, which lines of which files it runs
    """

    seconds: dict[str, float]
    lines: dict[str, dict[str, list[int]]]

    def rounds(self, path: str, line: int, limit: float) -> Iterator[list[str]]:
        """
        :param path: of a file
        :param line: of it
        :param limit: seconds
        :return: tests that run the line, quick ones first, or the file where none does (it runs at import), in rounds
            of growing length
        """
        tests = [name for name, files in self.lines.items() if line in files.get(path, ())]
        tests = tests or [name for name, files in self.lines.items() if path in files]
        total, current, length = 0.0, [], 3.0
        for name in sorted((name for name in tests if self.seconds[name] < LONGEST), key=self.seconds.get):
            total += self.seconds[name]
            if total > limit and current:
                break
            current.append(name)
            if total > length:
                yield current
                current, length = [], 4 * length
        if current:
            yield current


class Plugin:
    """For pytest: few examples, and only some tests in a given order."""

    def __init__(self, tests: list[str] | None) -> None:
        self.order = None if tests is None else {name: i for i, name in enumerate(tests)}

    @pytest.hookimpl(trylast=True)
    def pytest_configure(self) -> None:
        from hypothesis import settings

        settings.register_profile("few", settings.default, max_examples=EXAMPLES)
        settings.load_profile("few")

    def pytest_collection_modifyitems(self, items: list) -> None:
        if self.order is not None:
            items[:] = sorted((i for i in items if i.nodeid in self.order), key=lambda i: self.order[i.nodeid])
        else:
            items[:] = [item for item in items if not any(map(item.get_closest_marker, ("slow", "gpu")))]


class Recorder(Plugin):
    """Which lines each test runs, and for how long. Tests that take too long, or fail as they are, are left out."""

    def __init__(self, package: str) -> None:
        import coverage

        super().__init__(None)
        self.coverage = coverage.Coverage(data_file=None, include=[f"{package}/*"], config_file=False)
        self.recording = Recording({}, {})

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> object:
        self.coverage.erase()
        self.coverage.start()
        start = time.process_time()
        self.recording.seconds[item.nodeid] = 0.0
        signal.setitimer(signal.ITIMER_PROF, LONGEST)
        result = yield
        signal.setitimer(signal.ITIMER_PROF, 0)
        self.recording.seconds[item.nodeid] += time.process_time() - start
        self.coverage.stop()
        data = self.coverage.get_data()
        self.recording.lines[item.nodeid] = {os.path.relpath(f): data.lines(f) for f in data.measured_files()}
        return result

    @pytest.hookimpl
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed or report.skipped:  # those that fail would kill every mutant
            self.recording.seconds[report.nodeid] = float("inf")


def warm_up() -> None:
    """Import what every fork needs, but nothing of the package."""
    for name in ("hypothesis.strategies", "spikingjelly.activation_based.ann2snn", "torch._dynamo"):
        importlib.import_module(name)
    torch.set_num_threads(1)
    torch.export.export(torch.nn.Linear(2, 2), (torch.ones(2, 2),))  # its first call imports a great deal


def _in_fork(function: Callable[[], int], limit: float) -> int | None:
    """What a function returns in a fork, whose output is lost; ``None`` if it crashes or takes too long, in seconds."""
    process = os.fork()
    if process == 0:
        code = 70
        try:
            os.setpgid(0, 0)
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 1)
            os.dup2(null, 2)
            code = int(function())
        finally:
            os._exit(code)
    latest = time.monotonic() + 20 * limit  # for a fork that waits for ever
    while True:
        ended, status, _ = os.wait4(process, os.WNOHANG)
        if ended:
            return os.WEXITSTATUS(status) if os.WIFEXITED(status) else None
        if _processor_seconds(process) > limit or time.monotonic() > latest:
            os.killpg(process, signal.SIGKILL)
        time.sleep(0.05)


def _processor_seconds(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


def _too_long(*args: object) -> None:
    raise TimeoutError


def record(tests: list[str], package: str) -> Recording:
    """
    :param tests: files or folders
    :param package: the package's folder
    :return: what its tests run
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "recording")

        def run() -> int:
            recorder = Recorder(package)
            signal.signal(signal.SIGPROF, _too_long)
            pytest.main(["-q", "-p", "no:cacheprovider", *tests], plugins=[recorder])
            file.write_text(json.dumps(vars(recorder.recording)))
            return 0

        _in_fork(run, float("inf"))
        return Recording(**json.loads(file.read_text()))


def passes(path: str, code: str, tests: list[str]) -> bool:
    """
    :param path: of a file
    :param code: what it is to hold
    :param tests: names of pytest; files and folders stand for the quick ones in them
    :return: whether all of them pass then, in time
    """

    def run() -> int:
        loader, original = importlib.machinery.SourceFileLoader, importlib.machinery.SourceFileLoader.get_code

        def get_code(self: object, name: str) -> object:
            if os.path.relpath(self.path) == path:
                return compile(code, self.path, "exec")
            return original(self, name)

        loader.get_code = get_code
        files = list(dict.fromkeys(name.partition("::")[0] for name in tests))
        order = tests if any("::" in name for name in tests) else None
        return pytest.main(["-x", "-q", "-p", "no:cacheprovider", *files], plugins=[Plugin(order)])

    return _in_fork(run, LIMIT) == 0
