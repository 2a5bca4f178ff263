"""Models that keep something from call to call: what a capture would freeze is refused, what changes nothing passes."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sj_parallel_conversion as sjpc

X = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))


class Model(nn.Module):
    """A small network, whose ``forward`` is given to it."""

    def __init__(self, run: Callable[[Model, Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last, self.run = nn.Linear(4, 8), nn.Linear(8, 3), run
        self.register_buffer("count", torch.ones(1))
        self.calls, self.kept = 1, None

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)

    def plain(self, x: Tensor) -> Tensor:
        return self.last(F.relu(self.first(x)))


def read_then_written(m: Model, x: Tensor) -> Tensor:
    k = int(m.count[0])
    m.count.add_(1)
    return m.plain(x) * k


def written_then_read(m: Model, x: Tensor) -> Tensor:
    m.count.add_(1)
    return m.plain(x) * float(m.count)


def condition_that_changes_late(m: Model, x: Tensor) -> Tensor:
    y = m.plain(x) * 2 if m.count > 100 else m.plain(x)
    m.count.add_(1)
    return y


def read_through_arithmetic(m: Model, x: Tensor) -> Tensor:
    k = (m.count * 2 + 1).sum().item()
    m.count.mul_(2)
    return m.plain(x) * k


def buffer_assigned(m: Model, x: Tensor) -> Tensor:
    k = float(m.count)
    m.count = m.count + 1
    return m.plain(x) * k


def number_counted(m: Model, x: Tensor) -> Tensor:
    m.calls += 1
    return m.plain(x) * m.calls


def tensor_kept(m: Model, x: Tensor) -> Tensor:
    y = m.plain(x)
    m.kept = y if m.kept is None else m.kept * 0.5 + y
    return m.kept


def counted_without_use(m: Model, x: Tensor) -> Tensor:
    m.calls += 1
    m.count.add_(1)
    return m.plain(x)


def computed_once(m: Model, x: Tensor) -> Tensor:
    if m.kept is None:
        m.kept = torch.full((1,), 2.0)
    return m.plain(x) * m.kept


def convert(run: Callable[[Model, Tensor], Tensor]) -> tuple[Model, nn.Module]:
    torch.manual_seed(0)
    ann = Model(run).eval()
    options = {"mode": "css", "time_steps": 12, "threshold": "max", "calibration": "none", "show_progress": False}
    return ann, sjpc.ParallelConverter([X], **options).convert(ann)


@pytest.mark.parametrize(
    "run", [read_then_written, written_then_read, condition_that_changes_late, read_through_arithmetic]
)
def test_a_buffer_that_is_read_as_a_number_and_written_to_is_refused_by_name(run: Callable) -> None:
    with pytest.raises(sjpc.ConversionError, match="changes its buffer 'count' in evaluation mode"):
        convert(run)


@pytest.mark.parametrize("run", [buffer_assigned, number_counted, tensor_kept])
def test_an_output_that_changes_from_call_to_call_is_refused(run: Callable) -> None:
    with pytest.raises(sjpc.ConversionError, match=r"another output|from call to call|in evaluation mode"):
        convert(run)


@pytest.mark.parametrize("run", [counted_without_use, computed_once])
def test_what_a_model_keeps_and_its_output_does_not_show_passes_without_a_word(run: Callable) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ann, snn = convert(run)
    assert ann.calls == 1 and ann.kept is None and torch.equal(ann.count, torch.ones(1))
    with torch.no_grad():
        for _ in range(2):
            torch.testing.assert_close(snn.predict(X), ann(X), rtol=0.01, atol=0.01)
