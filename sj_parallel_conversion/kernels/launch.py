"""What knows CuPy: whether it can be used, compiling node.cu, and launching it on torch's current stream."""

from __future__ import annotations

import functools
from contextlib import AbstractContextManager
from importlib import resources
from typing import Any

import torch
from torch import Tensor

from ..errors import ConfigError, DataError

BACKENDS = ("torch", "cupy")

# No contraction of a product and a sum to one rounding: torch's form has two.
COMPILER_OPTIONS = ("--std=c++17", "--fmad=false")
THREADS_PER_BLOCK = 256


def check_backend(owner: str, backend: object) -> None:
    """
    :param owner: who asks, for the error message
    :param backend: a name
    :raises ConfigError: if it is not one of :data:`BACKENDS`, or cannot be used here
    """
    if backend not in BACKENDS:
        names = ", ".join(map(repr, BACKENDS))
        raise ConfigError(f"{owner}: backend={backend!r} is unknown. Choose one of: {names}")
    if backend == "cupy":
        _check_cupy(owner)


def _check_cupy(owner: str) -> None:
    try:
        import cupy  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"{owner}: backend='cupy' needs CuPy: pip install cupy-cuda12x (or cupy-cuda13x, like the CUDA of your "
            "torch), or use backend='torch'"
        ) from error
    if torch.version.cuda is None or not torch.cuda.is_available():
        raise ConfigError(
            f"{owner}: backend='cupy' needs a CUDA device, and torch sees none: install a torch with CUDA, check the "
            "driver with nvidia-smi, or use backend='torch'"
        )


def check_device(owner: str, x: Tensor, parameters: list[Tensor]) -> None:
    """
    :param owner: the node, for the error message
    :param x: its input
    :param parameters: its parameters
    :raises DataError: if not all of them are on the same CUDA device: a kernel would read another device's addresses
    """
    devices = {str(tensor.device) for tensor in (x, *parameters)}
    if len(devices) > 1 or x.device.type != "cuda":
        raise DataError(
            f"{owner}(backend='cupy') needs its input and its parameters on one CUDA device, got {sorted(devices)}: "
            "move both there, or set backend='torch'"
        )


def source() -> str:
    """The text of node.cu."""
    return resources.files(__package__).joinpath("node.cu").read_text()


def launch(entry: str, macros: tuple[str, ...], arguments: tuple[Any, ...], threads: int, device: torch.device) -> None:
    """
    :param entry: the name of a kernel in node.cu
    :param macros: what it is compiled with, ``"NAME=value"``
    :param arguments: numpy scalars, addresses among them
    :param threads: how many it needs at least
    :param device: where the addresses are
    """
    import cupy

    blocks = -(-threads // THREADS_PER_BLOCK)
    with cupy.cuda.Device(device.index), _current_stream(device):
        _compiled(entry, macros)((blocks,), (THREADS_PER_BLOCK,), arguments)


def _current_stream(device: torch.device) -> AbstractContextManager[Any]:
    import cupy

    stream = torch.cuda.current_stream(device)
    # CuPy 14 deprecates ExternalStream for the stream protocol, which older releases of either do not know.
    if hasattr(cupy.cuda.Stream, "from_external") and hasattr(stream, "__cuda_stream__"):
        return cupy.cuda.Stream.from_external(stream)
    return cupy.cuda.ExternalStream(stream.cuda_stream, device.index)


@functools.cache
def _compiled(entry: str, macros: tuple[str, ...]) -> Any:
    # Compiled at the first call on each device; CuPy keeps the binaries on disk.
    import cupy

    return cupy.RawKernel(source(), entry, (*COMPILER_OPTIONS, *(f"-D{macro}" for macro in macros)))
