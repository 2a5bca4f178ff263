"""Fixtures on real data, hypothesis profiles, and the check that the right SpikingJelly release is tested."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
import spikingjelly
import torch
from helpers.cifar10 import load_images, load_resnet
from hypothesis import HealthCheck, settings
from shared_captures import share
from upstream import Snapshot, snapshot

import sj_parallel_conversion as sjpc

torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))

# "quick" is the same on every machine and every run; "long" looks for new counterexamples.
settings.register_profile(
    "quick", max_examples=50, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("long", settings.get_profile("quick"), max_examples=2000, derandomize=False)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fuzz", action="store_true", help="many more hypothesis examples (profile 'long')")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--fuzz"):
        settings.load_profile("long")
    release, expected = metadata.version("spikingjelly"), os.environ.get("SJPC_EXPECT_RELEASE")
    if expected and release != expected:
        raise pytest.UsageError(f"the tests are to run on SpikingJelly {expected}, but {release} is imported")


def pytest_report_header() -> str:
    release, folder = metadata.version("spikingjelly"), Path(spikingjelly.__file__).parent
    return f"spikingjelly: {release} ({folder}), torch: {torch.__version__}"


OF_CAPTURES = {  # here every model is captured anew
    "test_activations", "test_capture", "test_copying", "test_leaves", "test_lengths", "test_lifting",
    "test_long_sizes", "test_naming", "test_operations", "test_plain", "test_registry", "test_returned_values",
    "test_side_effects", "test_signature", "test_sizes", "test_state", "test_threads",
}  # fmt: skip


def pytest_runtest_setup(item: pytest.Item) -> None:
    share(item.path.stem not in OF_CAPTURES)
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")


@pytest.fixture
def upstream() -> Iterator[Snapshot]:
    """SpikingJelly's namespaces without the plugin; afterwards it is registered again."""
    sjpc.unregister()
    yield snapshot()
    sjpc.unregister()
    sjpc.register()


def missing(reason: str) -> None:
    """Skip the test, or fail it where the real data is required (SJPC_REQUIRE_DATA=1)."""
    if os.environ.get("SJPC_REQUIRE_DATA") == "1":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def cifar_data() -> Path:
    """The folder with ``cifar10/*.npz`` and ``weights/*.pt``."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("SJPC_DATA") or beside)
    needed = ["cifar10/train.npz", "cifar10/test.npz", "weights/resnet20_cifar10.pt"]
    absent = [name for name in needed if not (folder / name).is_file()]
    if absent:
        missing(f"no real data: {folder} lacks {', '.join(absent)} (set SJPC_DATA to a folder that has them)")
    return folder


@pytest.fixture(scope="session")
def cifar_train(cifar_data: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """4,096 normalised CIFAR-10 training images ``[N, 3, 32, 32]`` and their labels; not to be written to."""
    return load_images(cifar_data, "train")


@pytest.fixture(scope="session")
def cifar_test(cifar_data: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """600 normalised CIFAR-10 test images ``[N, 3, 32, 32]`` and their labels; not to be written to."""
    return load_images(cifar_data, "test")


@pytest.fixture
def resnet20(cifar_data: Path) -> torch.nn.Module:
    """The trained ResNet-20 (91.83 % on ``cifar_test``), a fresh one for each test."""
    return load_resnet("resnet20", cifar_data / "weights" / "resnet20_cifar10.pt")
