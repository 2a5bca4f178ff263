"""The tests on every supported SpikingJelly release, the linter, the docs, and other people's models."""

import os
import subprocess
import sys
from pathlib import Path

import nox

RELEASES = ["2.0.0", "0.0.0.0.14"]
OLDEST_TORCH = ["torch==2.6.*", "torchvision==0.21.*"]  # as setup.cfg allows

nox.options.sessions = ["tests", "lint", "docs"]
# A release is 5 MB, the torch below it gigabytes: all sessions share the interpreter that runs nox.
nox.options.default_venv_backend = "none"


def release_folder(session: nox.Session, release: str) -> Path:
    """
    :param release: a SpikingJelly release
    :return: the folder that holds this release and nothing else, installed on first use
    """
    folder = Path(".nox", f"spikingjelly-{release}").absolute()
    if not (folder / "spikingjelly").is_dir():
        pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--target", str(folder)]
        session.run(*pip, f"spikingjelly=={release}", external=True)
    return folder


@nox.session
def tests(session: nox.Session) -> None:
    """
    pytest with each SpikingJelly release in front of the installed one, side by side: a test uses one core. The first
    release prints while it runs, the others when it is done.
    """
    runs = [_start(session, release, Path(".nox", f"{release}.log")) for release in RELEASES[1:]]
    first, _ = _start(session, RELEASES[0], None)
    codes = [first.wait()]
    for run, log in runs:
        codes.append(run.wait())
        print(log.read_text(errors="replace"), flush=True)
    for release, code in zip(RELEASES, codes, strict=True):
        print(f"SpikingJelly {release}: {'passed' if code == 0 else f'failed with exit code {code}'}", flush=True)
    if any(codes):
        session.error("tests failed")


def _start(session: nox.Session, release: str, log: Path | None) -> tuple[subprocess.Popen, Path | None]:
    """
    :param release: a SpikingJelly release
    :param log: where the output goes; ``None``: to the terminal
    :return: a run of pytest that has begun, and ``log``
    """
    path = [str(release_folder(session, release)), os.environ.get("PYTHONPATH")]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, path)), "SJPC_EXPECT_RELEASE": release}
    # One thread each; and threads that wait by spinning make a busy machine ten times slower.
    env |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    output = None if log is None else log.open("w")
    command = [sys.executable, "-m", "pytest", "-o", f"cache_dir=.pytest_cache/{release}", *session.posargs]
    return subprocess.Popen(command, env=env, stdout=output, stderr=subprocess.STDOUT if output else None), log


@nox.session(venv_backend="venv", reuse_venv=True)
def oldest(session: nox.Session) -> None:
    """pytest with the oldest torch, in an environment of its own of several gigabytes."""
    session.install(*OLDEST_TORCH, "--editable", ".[test,demo]")
    session.run("python", "-m", "pytest", *session.posargs, env={"OMP_WAIT_POLICY": "passive"})


@nox.session
def lint(session: nox.Session) -> None:
    """ruff, on everything."""
    session.run(sys.executable, "-m", "ruff", "check", ".", external=True)


@nox.session
def docs(session: nox.Session) -> None:
    """The pages as HTML, in outputs/docs. A warning is an error."""
    session.run(sys.executable, "-m", "sphinx", "-W", "-q", "docs", "outputs/docs", external=True)


@nox.session
def models(session: nox.Session) -> None:
    """Converts other people's models: benchmarks/models.py. Their libraries are 200 MB that nothing else needs."""
    folder = Path(".nox", "models").absolute()
    if not folder.is_dir():
        pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--target", str(folder)]
        session.run(*pip, "--requirement", "benchmarks/model_zoo/requirements.txt", external=True)
    path = [os.environ.get("PYTHONPATH"), str(folder)]
    # ultralytics writes its settings where this points, and else into the user's home.
    env = {"PYTHONPATH": os.pathsep.join(filter(None, path)), "YOLO_CONFIG_DIR": str(folder)}
    session.run(sys.executable, "benchmarks/models.py", *session.posargs, env=env, external=True)


@nox.session
def mutation(session: nox.Session) -> None:
    """How many faults that are put into the code the tests notice: benchmarks/mutation.py. It takes an hour or more."""
    folder = Path(".nox", "mutation").absolute()
    if not folder.is_dir():
        pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--target", str(folder)]
        session.run(*pip, "cosmic-ray", "parso", "stevedore", "attrs", "coverage", external=True)
    path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(folder)]))
    env = {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = ["benchmarks/mutation.py", "--record", str(folder / "tests.json"), *session.posargs]
    session.run(sys.executable, *command, env=env, external=True)
