"""The stream of images that ``benchmarks/processes.py`` measures memory with."""

from __future__ import annotations

import torch
from processes import Stream


def test_a_stream_has_as_many_different_images_as_wanted() -> None:
    images = torch.rand(24, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    batches = list(Stream(images, 200, batch_size=16))
    assert [len(x) for x in batches] == [16] * 12 + [8] and len(Stream(images, 200, 16)) == 13
    assert torch.equal(batches[0], images[:16])
    assert len(torch.cat(batches).flatten(1).unique(dim=0)) == 200
