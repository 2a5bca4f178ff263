"""
The file itself: safetensors, whose header has the structure of the network as JSON, and a checksum of the whole file.

It is written beside the old file and put in its place when all of it is on the disk.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..atomic_file import replacing
from ..errors import FileError, SJPCError
from ..version import __version__
from .tensors import TensorReader
from .values import Record

FORMAT = "sj_parallel_conversion"
VERSION = 1
_LONGEST_HEADER = 16 * 2**20  # bytes; that of a network with 1,000 layers has one or two million
_CHUNK = 2**20
_EMPTY = "0" * 64
_CHECKSUM = re.compile(rb'(?<!\\)"checksum":"([0-9a-f]{64})"')
_DTYPES = {
    "F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64, "BOOL": torch.bool,
    "U8": torch.uint8, "I8": torch.int8, "I16": torch.int16, "I32": torch.int32, "I64": torch.int64,
}  # fmt: skip


@contextmanager
def naming(path: Path, doing: str) -> Iterator[None]:
    """
    Within it, each error names the file.

    :param path: the file
    :param doing: ``"saved"`` or ``"loaded"``
    :raises FileError: in the place of every error that a file can cause
    """
    try:
        yield
    except FileError as error:
        raise FileError(f"{path}: {error}") from error
    except SJPCError as error:
        raise FileError(f"{path} cannot be {doing}: {error}") from error
    except (OSError, SafetensorError) as error:
        raise FileError(f"{path} cannot be {doing}: {error}") from error
    except _OF_DAMAGED_FILES as error:
        if doing == "saved":
            raise
        raise FileError(f"{path} is damaged: its structure is not that of a network ({error!r})") from error


# what Python and torch raise where JSON is not built as it should be
_OF_DAMAGED_FILES = (
    AttributeError, LookupError, OverflowError, RecursionError, RuntimeError, SyntaxError, TypeError, ValueError,
    AssertionError, ZeroDivisionError, MemoryError,
)  # fmt: skip


def write(path: Path, structure: Record, tensors: dict[str, Tensor]) -> None:
    """
    :param path: the file; an old one stays until the new one is whole
    :param structure: JSON
    :param tensors: contiguous, on the CPU
    """
    words = json.dumps(structure, separators=(",", ":"))
    if len(words) > _LONGEST_HEADER // 2:
        raise FileError("the structure of the network is too long for a file")
    metadata = {"format": FORMAT, "version": str(VERSION), "package": __version__, "checksum": _EMPTY, "network": words}
    with replacing(path) as new:
        save_file(tensors, new, metadata)
        with open(new, "r+b") as file:
            start, checksum = _checksum(file)
            file.seek(start)
            file.write(checksum.encode())


def _checksum(file: BinaryIO) -> tuple[int, str]:
    """Where the checksum of an open file stands, and what it has to be: that of the file with zeros in its place."""
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    if not 2 <= length <= _LONGEST_HEADER:
        raise FileError("it is no file of a network: its header is missing")
    header = file.read(length)
    found = _CHECKSUM.search(header)
    if found is None:
        raise FileError("it is damaged: its header has no checksum")
    start, end = found.span(1)
    digest = hashlib.sha256(length.to_bytes(8, "little"))
    digest.update(header[:start] + _EMPTY.encode() + header[end:])
    while chunk := file.read(_CHUNK):
        digest.update(chunk)
    return 8 + start, digest.hexdigest()


@contextmanager
def reading(path: Path) -> Iterator[tuple[Record, TensorReader]]:
    """
    Within it, the file is open.

    :param path: the file
    :return: its structure, and its tensors
    :raises FileError: if it is no file of a network, is of a newer version, or was altered
    """
    if not path.is_file():
        raise FileError("there is no such file")
    with open(path, "rb") as file:
        header = _header(file)
        metadata = _metadata(header)
        start, checksum = _checksum(file)
        file.seek(start)
        if file.read(64).decode() != checksum:
            raise FileError(
                "it was altered or cut off after it was saved: its checksum is another. Copy it again, or save the "
                "network again"
            )
    structure = json.loads(metadata["network"])
    entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
    forms = {name: (tuple(entry["shape"]), _DTYPES[entry["dtype"]]) for name, entry in entries.items()}
    with safe_open(path, framework="pt") as tensors:
        # a copy, in memory that torch has aligned: kernels may round otherwise where it is not
        yield structure, TensorReader(forms, lambda name: tensors.get_tensor(name).clone())


def _header(file: BinaryIO) -> dict[str, Any]:
    start = file.read(8)
    length = int.from_bytes(start, "little")
    size = os.fstat(file.fileno()).st_size
    if len(start) < 8 or not 2 <= length <= _LONGEST_HEADER:
        raise FileError("it is no file of a network: it has no header of safetensors")
    if 8 + length > size:
        raise FileError("it is cut off: it ends before its header does")
    try:
        header = json.loads(file.read(length))
    except (ValueError, RecursionError) as error:
        raise FileError(f"it is no file of a network: its header is no JSON ({error})") from error
    if not isinstance(header, dict) or not isinstance(header.get("__metadata__"), dict):
        raise FileError("it is no file of a network: it holds tensors alone. Files are made by sjpc.save")
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    if 8 + length + max(ends, default=0) > size:
        raise FileError(f"it is cut off: {8 + length + max(ends)} bytes are needed, and there are {size}")
    return header


def _metadata(header: dict[str, Any]) -> dict[str, str]:
    metadata = header["__metadata__"]
    if metadata.get("format") != FORMAT:
        raise FileError("it is no file of a network: it was not made by sjpc.save")
    version = metadata.get("version", "")
    if not re.fullmatch(r"[1-9]\d{0,8}", version):
        raise FileError("it is damaged: its version is no number")
    if int(version) > VERSION:
        raise FileError(
            f"it has format {version}, which sj_parallel_conversion {metadata.get('package')} has written. This is "
            f"sj_parallel_conversion {__version__}, which reads formats up to {VERSION}: install a newer one"
        )
    return metadata
