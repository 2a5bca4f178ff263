"""Files of models in parts."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from in_parts import IMAGES, PARTS, convert, detector
from in_parts import same as same_boxes
from saved import round_trip
from torch import nn

import sj_parallel_conversion as sjpc


@torch.no_grad()
def test_parts_go_into_a_model_of_the_readers(tmp_path: Path) -> None:
    snn = convert(detector(), PARTS)
    snn.parts["backbone"].execution = "packed"
    path = tmp_path / "parts"
    sjpc.save(snn, path)
    fresh = detector()
    for value in fresh.parameters():
        value.normal_()
    before = copy.deepcopy(fresh.state_dict())
    other = sjpc.load(path, model=fresh)
    assert list(other.parts) == list(snn.parts) and other.execution == "mixed"
    assert same_boxes(snn(IMAGES), other(IMAGES))
    fast = sjpc.prepack(snn)
    assert same_boxes(fast(IMAGES), round_trip(fast, tmp_path, model=fresh)(IMAGES))
    assert all(torch.equal(value, before[name]) for name, value in fresh.state_dict().items())
    with pytest.raises(sjpc.DataError, match="sequence"):
        other(IMAGES.expand(4, *IMAGES.shape))
    with pytest.raises(sjpc.FileError, match=r"converted in parts.*model=model"):
        sjpc.load(path)
    with pytest.raises(sjpc.FileError, match="has no such submodule"):
        sjpc.load(path, model=nn.Linear(2, 2))
    fresh.head.scores = nn.Conv2d(6, 3, 1)
    with pytest.raises(sjpc.FileError, match=r"'head.scores.weight' has shape \[2, 6, 1, 1\] in the file"):
        sjpc.load(path, model=fresh)
    del fresh.head.scores
    with pytest.raises(sjpc.FileError, match=r"head\.scores.*another model"):
        sjpc.load(path, model=fresh)
