"""Files with changes at random: each is an error of this package or the whole network. ``--fuzz`` tries thousands."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from helpers.cifar10 import load_resnet
from saved import change, converted, same, small
from torch import nn

import sj_parallel_conversion as sjpc
from sj_parallel_conversion.files import container


def mutated_bytes(rng: random.Random, content: bytes) -> bytes:
    """A file with bytes changed, cut off, put in or swapped."""
    data, at = bytearray(content), rng.randrange(len(content))
    header = rng.randrange(8 + int.from_bytes(content[:8], "little"))
    kind = rng.choice(["flip", "flip in the header", "cut", "insert", "zeros", "swap", "huge"])
    if kind.startswith("flip"):
        data[at if kind == "flip" else header] ^= 1 << rng.randrange(8)
    elif kind == "cut":
        del data[at:]
    elif kind == "insert":
        data[header:header] = rng.randbytes(rng.randrange(1, 9))
    elif kind == "huge":  # a size in the header
        number = rng.choice(list(re.finditer(rb"\d+", content[8 : 8 + int.from_bytes(content[:8], "little")])))
        data[8 + number.start() : 8 + number.end()] = b"9" * rng.choice([len(number[0]), 13])
    elif kind == "zeros":
        data[at : at + 16] = bytes(len(data[at : at + 16]))
    else:
        half = len(data) // 2
        data = data[half:] + data[:half]
    return bytes(data)


VALUES = [None, True, False, -1, 0, 1, 2**40, 10**12, 1.5, "", "x", "import os", [], {}, [[]], {"tuple": []}, "a.b"]


def mutate(rng: random.Random, value: object) -> None:
    """Change one entry, somewhere in a structure."""
    places = []
    stack = [value]
    while stack:
        inner = stack.pop()
        items = inner.items() if isinstance(inner, dict) else enumerate(inner) if isinstance(inner, list) else ()
        for key, item in list(items):
            places.append((inner, key))
            stack.append(item)
    inner, key = rng.choice(places)
    kind = rng.choice(["value", "value", "delete", "other"])
    if kind == "delete":
        del inner[key]
    elif kind == "other":
        place, other = rng.choice(places)
        inner[key] = json.loads(json.dumps(place[other]))
    else:
        inner[key] = rng.choice(VALUES)


def wide() -> tuple[sjpc.SpikingNetwork, torch.Tensor]:
    """A network of 4 million bytes, beside which what Python itself takes is little."""
    torch.manual_seed(0)
    layers = nn.Linear(6, 1000), nn.ReLU(), nn.Linear(1000, 1000), nn.ReLU(), nn.Linear(1000, 3)
    ann, x = nn.Sequential(*layers), torch.ones(2, 6)
    return converted(ann.eval(), x), x


@contextmanager
def at_most(size: int) -> Iterator[None]:
    """Fails if the process takes more memory within it. Linux says how much that is."""
    file = Path("/proc/self/clear_refs")
    if file.exists():
        file.write_text("5")  # the peak begins anew
    before = _memory("VmRSS")
    yield
    assert _memory("VmHWM") - before <= size


def _memory(entry: str) -> int:
    file = Path("/proc/self/status")
    return int(re.search(rf"{entry}:\s*(\d+)", file.read_text())[1]) * 1024 if file.exists() else 0


def trained(folder: Path) -> tuple[sjpc.SpikingNetwork, torch.Tensor]:
    """A trained ResNet-20."""
    x = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return converted(load_resnet("resnet20", folder / "weights" / "resnet20_cifar10.pt"), x), x[:1]


@pytest.mark.parametrize("make", [small, wide])
def test_mutations(make: Callable[[], tuple], tmp_path: Path, request: pytest.FixtureRequest) -> None:
    survives(*make(), tmp_path / "network.sjpc", 500 if request.config.getoption("--fuzz") else 50)


def test_mutations_of_a_trained_network(cifar_data: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    survives(*trained(cifar_data), tmp_path / "network.sjpc", 1000 if request.config.getoption("--fuzz") else 20)


@torch.no_grad()
def survives(snn: sjpc.SpikingNetwork, x: torch.Tensor, path: Path, count: int) -> None:
    """Each file is an error of this package or the whole network, and takes at most twice its size in memory."""
    rng = random.Random(0)
    sjpc.save(snn, path)
    content, expected = path.read_bytes(), snn.predict(x)
    with container.reading(path) as (structure, _):
        words = json.dumps(structure)
    for i in range(count):
        if i % 2:
            path.write_bytes(mutated_bytes(rng, content))
        else:  # by somebody who knows the checksum
            path.write_bytes(content)
            new = json.loads(words)
            for _ in range(rng.randrange(1, 4)):
                mutate(rng, new)
            change(path, lambda structure, new=new: (structure.clear(), structure.update(new)))
        try:
            with at_most(2 * len(content) + 2**20):
                loaded = sjpc.load(path)
        except sjpc.FileError as error:
            assert str(path) in str(error)
            continue
        assert isinstance(loaded, sjpc.SpikingNetwork)
        assert i % 2 == 0 or same(loaded.predict(x), expected)
