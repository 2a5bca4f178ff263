"""Tests on every supported SpikingJelly, torch and Python; types, docs, the wheel; other people's models."""

import os
import subprocess
import sys
from pathlib import Path

import nox

RELEASES = ["2.0.0", "0.0.0.0.14"]
OLDEST_TORCH = ["torch==2.6.*", "torchvision==0.21.*"]  # as setup.cfg allows
TORCH = {"2.6": OLDEST_TORCH, "newest": ["torch", "torchvision"]}
PYTHONS = ["3.11", "3.12", "3.13", "3.14"]
OLDEST_TORCH_HAS = PYTHONS[:3]
# These need no extra.
BARE = [
    "tests/functional",
    "tests/neuron",
    "tests/test_compat.py",
    "tests/test_package.py",
    "tests/test_registration.py",
]

nox.options.sessions = ["tests", "lint", "types", "docs"]
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


@nox.session(venv_backend="venv", reuse_venv=True, python=PYTHONS)
@nox.parametrize("torch", list(TORCH))
@nox.parametrize("release", RELEASES)
def matrix(session: nox.Session, release: str, torch: str) -> None:
    """pytest on one Python, torch and SpikingJelly: nox --session "matrix-3.12(release='2.0.0', torch='newest')"."""
    if torch == "2.6" and session.python not in OLDEST_TORCH_HAS:
        session.skip(f"torch 2.6 has no wheel for Python {session.python}")
    session.install(*TORCH[torch], f"spikingjelly=={release}", "--editable", ".[test,demo]")
    env = {"OMP_WAIT_POLICY": "passive", "SJPC_EXPECT_RELEASE": release}
    session.run("python", "-m", "pytest", *session.posargs, env=env)


@nox.session(venv_backend="venv", reuse_venv=True, python=PYTHONS)
def bare(session: nox.Session) -> None:
    """The wheel without any extra, in an environment of its own: README's code, and the tests that need no more."""
    session.install(".", "hypothesis", "pytest", "pytest-timeout", "scikit-learn", "tqdm")
    session.run("python", "-m", "pytest", *(session.posargs or BARE), env={"OMP_WAIT_POLICY": "passive"})


@nox.session(venv_backend="venv", reuse_venv=True)
def newest(session: nox.Session) -> None:
    """
    pytest on the newest SpikingJelly, also one that is not released yet. With TORCH_NIGHTLY_INDEX, the address of
    torch's nightly builds, on those too.
    """
    index = os.environ.get("TORCH_NIGHTLY_INDEX")
    if index:
        session.install("--pre", "torch", "torchvision", "--index-url", index)
    session.install("--pre", "--upgrade", "spikingjelly")
    session.install("--editable", ".[test,demo]")
    session.run("python", "-m", "pytest", *session.posargs, env={"OMP_WAIT_POLICY": "passive"})


@nox.session(venv_backend="venv", reuse_venv=True)
def package(session: nox.Session) -> None:
    """Builds the wheel and the source archive in dist/, and checks what a package index will show of them."""
    session.install("build", "twine")
    session.run("python", "-m", "build")
    session.run("python", "-m", "twine", "check", "--strict", *map(str, Path("dist").glob("*")))


@nox.session
def types(session: nox.Session) -> None:
    """mypy, on the package. What it is lenient with stands in pyproject.toml, with reasons."""
    session.run(sys.executable, "-m", "mypy", external=True)


@nox.session
def coverage(session: nox.Session) -> None:
    """
    Lines and branches of the package that the tests on the installed SpikingJelly run; the page is in outputs/coverage.
    It takes twice as long as the tests: nox --session coverage -- tests/neuron.
    """
    report = ["--cov", "--cov-report=term", "--cov-report=html:outputs/coverage"]
    env = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "COVERAGE_FILE": ".nox/coverage"}
    session.run(sys.executable, "-m", "pytest", *report, *session.posargs, env=env, external=True)


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
