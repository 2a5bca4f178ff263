"""The CuPy backend on a machine without a GPU."""

from __future__ import annotations

import pytest
from host_kernel import has_compiler, launch_on_host

from sj_parallel_conversion.kernels import launch


@pytest.fixture
def compiler() -> None:
    """For tests that build the kernel for the host."""
    if not has_compiler():
        pytest.skip("needs a C++ compiler with _Float16 (g++ or clang++)")


@pytest.fixture
def host_backend(compiler: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """``backend="cupy"`` runs on the host, on CPU tensors, up to the launch as on a GPU."""
    monkeypatch.setattr(launch, "launch", launch_on_host)
    monkeypatch.setattr(launch, "check_device", lambda owner, x, parameters: None)
    monkeypatch.setattr(launch, "_check_cupy", lambda owner: None)
