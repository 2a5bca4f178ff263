"""The tests on every supported SpikingJelly release, and the linter."""

import os
import sys
from pathlib import Path

import nox

RELEASES = ["2.0.0", "0.0.0.0.14"]

nox.options.sessions = ["tests", "lint"]
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
@nox.parametrize("release", RELEASES)
def tests(session: nox.Session, release: str) -> None:
    """pytest with one SpikingJelly release in front of the installed one."""
    path = [str(release_folder(session, release)), os.environ.get("PYTHONPATH")]
    env = {"PYTHONPATH": os.pathsep.join(filter(None, path)), "SJPC_EXPECT_RELEASE": release}
    # Threads that wait for each other by spinning make a busy machine ten times slower.
    env["OMP_WAIT_POLICY"] = "passive"
    session.run(sys.executable, "-m", "pytest", *session.posargs, env=env, external=True)


@nox.session
def lint(session: nox.Session) -> None:
    """ruff, on everything."""
    session.run(sys.executable, "-m", "ruff", "check", ".", external=True)
