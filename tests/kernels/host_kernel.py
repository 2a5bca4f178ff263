"""node.cu built for the host: the same text, arguments and grid as on a GPU, one thread after the other."""

from __future__ import annotations

import ctypes
import functools
import itertools
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import torch

from sj_parallel_conversion.kernels import launch

# What a CUDA compiler knows by itself.
PRELUDE = """
#include <math.h>
#define __device__
#define __global__
struct Index { unsigned int x; };
extern "C" { Index blockIdx, threadIdx, gridDim, blockDim; }
"""
C_TYPES = {
    np.int32: ctypes.c_int32, np.int64: ctypes.c_int64, np.float32: ctypes.c_float, np.float64: ctypes.c_double
}  # fmt: skip
COMPILER = shutil.which("g++") or shutil.which("clang++")


class Index(ctypes.Structure):
    _fields_ = (("x", ctypes.c_uint),)


def build(code: str, macros: tuple[str, ...] = ()) -> ctypes.CDLL:
    """``code`` as a shared library; no contraction, as on the device."""
    with tempfile.TemporaryDirectory() as folder:
        text, library = Path(folder, "node.cpp"), Path(folder, "node.so")
        text.write_text(code)
        flags = ["-std=c++17", "-ffp-contract=off", "-shared", "-fPIC", "-w"]
        command = [COMPILER, *flags, *(f"-D{macro}" for macro in macros), str(text), "-o", str(library)]
        run = subprocess.run(command, capture_output=True, text=True, timeout=300)
        if run.returncode:
            raise RuntimeError(run.stderr)
        return ctypes.CDLL(str(library))


@functools.cache
def has_compiler() -> bool:
    """Whether there is a C++ compiler, with a 16-bit float."""
    try:
        return COMPILER is not None and bool(build("_Float16 x;"))
    except RuntimeError:
        return False


@functools.cache
def _library(macros: tuple[str, ...]) -> ctypes.CDLL:
    return build(PRELUDE + launch.source(), macros)


def declared_types(macros: tuple[str, ...]) -> list[type]:
    """The numpy types of the kernel's arguments, as node.cu declares them."""
    arguments = re.search(r"#define ARGUMENTS((?:.*\\\n)*.*)", launch.source())[1].replace("\\\n", " ")
    compute = np.float64 if "COMPUTE=double" in macros else np.float32
    plain = {"int": np.int32, "long long": np.int64, "COMPUTE": compute}
    types = (declaration.strip().rsplit(" ", 1)[0] for declaration in arguments.split(","))
    return [np.int64 if name.endswith("*") else plain[name] for name in types]


def launch_on_host(entry: str, macros: tuple[str, ...], arguments: tuple, threads: int, device: torch.device) -> None:
    """:func:`sj_parallel_conversion.kernels.launch.launch` for addresses on the host."""
    assert [type(argument) for argument in arguments] == declared_types(macros)
    library = _library(macros)
    kernel = library[entry]
    kernel.argtypes, kernel.restype = [C_TYPES[type(argument)] for argument in arguments], None
    index = {name: Index.in_dll(library, name) for name in ("blockIdx", "threadIdx", "gridDim", "blockDim")}
    index["gridDim"].x, index["blockDim"].x = -(-threads // launch.THREADS_PER_BLOCK), launch.THREADS_PER_BLOCK
    values = [argument.item() for argument in arguments]
    for block, thread in itertools.product(range(index["gridDim"].x), range(launch.THREADS_PER_BLOCK)):
        index["blockIdx"].x, index["threadIdx"].x = block, thread
        kernel(*values)
