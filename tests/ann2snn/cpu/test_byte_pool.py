"""Maxima of bytes are those of floats."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from sj_parallel_conversion.ann2snn.cpu import byte_pool
from sj_parallel_conversion.ann2snn.cpu.byte_pool import ByteMaxPool2d, let_pool_bytes, pools_bytes

FORMS = [
    {"kernel_size": 2}, {"kernel_size": 3, "stride": 2, "padding": 1}, {"kernel_size": (3, 2), "stride": (1, 2)},
    {"kernel_size": 2, "ceil_mode": True}, {"kernel_size": 2, "dilation": (2, 1)},
]  # fmt: skip


@pytest.mark.skipif(not pools_bytes(), reason="this torch pools no bytes")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_as_of_floats(form: dict[str, object], memory_format: torch.memory_format) -> None:
    x = torch.randint(0, 256, (3, 5, 9, 11), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    pool, own = ByteMaxPool2d(**form), nn.MaxPool2d(**form)
    for copied in (pool, copy.deepcopy(pool), pickle.loads(pickle.dumps(pool))):
        found = copied(x.contiguous(memory_format=memory_format))
        assert found.dtype == torch.uint8 and torch.equal(found.float(), own(x.float()))
    y = torch.randn(3, 5, 9, 11, requires_grad=True)
    assert torch.equal(pool(y), own(y)) and pool(y).requires_grad


def test_which_modules_pool_bytes() -> None:
    class Own(nn.MaxPool2d):
        """It may do anything."""

    for module, changed in (
        (nn.MaxPool2d(2), True), (nn.MaxPool2d(2, return_indices=True), False), (Own(2), False),
        (nn.MaxPool1d(2), False), (None, False),
    ):  # fmt: skip
        let_pool_bytes(module)
        assert (type(module) is ByteMaxPool2d) == changed


@pytest.mark.parametrize("error", [RuntimeError("not implemented for 'Byte'"), AttributeError("max_pool2d"), None])
def test_a_torch_without_the_kernel(error: Exception | None, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> torch.Tensor:
        if error is None:
            return torch.zeros(1, 1, 3, 3, dtype=torch.uint8)  # something wrong
        raise error

    monkeypatch.setattr(byte_pool.torch.ops.quantized, "max_pool2d", refuse, raising=False)
    assert not pools_bytes.__wrapped__()
