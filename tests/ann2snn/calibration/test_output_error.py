"""The error of a network's outputs: against its equation, for outputs of any rank."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from sj_parallel_conversion.ann2snn.calibration.output_error import OutputError
from sj_parallel_conversion.ann2snn.data.cache import Spool
from sj_parallel_conversion.ann2snn.data.inputs import Batch

OUTPUTS: dict[str, Callable[[Tensor], tuple[Tensor, ...]]] = {
    "logits": lambda x: (x,),
    "one number an image": lambda x: (x.sum(1),),
    "maps": lambda x: (x.view(-1, 2, 3),),
    "two outputs": lambda x: (x.sum(1), x[:, :2] * 3),
}


class Of(nn.Module):
    """``function`` of the input, ``off`` added."""

    def __init__(self, function: Callable[[Tensor], tuple[Tensor, ...]], off: float = 0.0) -> None:
        super().__init__()
        self.function, self.off = function, off

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(y + self.off * (1 + y.abs()) for y in self.function(x))


def error_of(model: Callable, x: Tensor) -> OutputError:
    parts = [Batch((part,), (True,)) for part in x.split(7)]
    return OutputError(model, parts, Spool(), False)


@pytest.mark.parametrize("name", OUTPUTS)
def test_is_the_equation(name: str) -> None:
    x = torch.randn(20, 6, generator=torch.Generator().manual_seed(0))
    ann, snn = Of(OUTPUTS[name]), Of(OUTPUTS[name], 0.3)
    error = error_of(ann, x)
    expected = [
        ((y - z) ** 2).flatten(1).mean(1) / z.var(correction=0) if z.dim() > 1 else (y - z) ** 2 / z.var(correction=0)
        for y, z in zip(snn(x), ann(x), strict=True)
    ]
    expected = sum(expected) / len(expected)
    found = error.by_image(snn, None, range(len(error)))
    torch.testing.assert_close(found.float(), expected)
    torch.testing.assert_close(error.of(snn, 0), expected[:7].mean())
    assert not error.by_image(ann, None, range(len(error))).any()


def test_an_output_without_a_batch_axis_has_one_error_for_each_part() -> None:
    x = torch.randn(14, 6)
    ann, snn = Of(lambda x: (x.sum().view(1, 1).expand(1, 3) * torch.arange(3.0),)), Of(lambda x: (x.new_ones(1, 3),))
    assert error_of(ann, x).by_image(snn, None, [0, 1]).shape == (2,)


def test_rows_that_are_no_images_have_one_error_for_each_part() -> None:
    ann, snn = Of(lambda x: (x.view(-1, 3),)), Of(lambda x: (x.view(-1, 3),), 0.3)  # two rows an image
    found = error_of(ann, torch.randn(14, 6)).by_image(snn, None, [0, 1])
    assert found.shape == (2,) and (found > 0).all()


def test_parts_without_some_of_the_outputs_are_left_out() -> None:
    """A map of a small image may be empty."""
    x = torch.randn(21, 6)
    ann = Of(lambda y: (y, y[:, : 3 * int(y[0, 0] == x[0, 0])]))
    error = error_of(ann, x)
    assert len(error) == 1 and len(error.by_image(ann, None, [0])) == 7


def test_nothing_to_compare() -> None:
    assert len(OutputError(Of(OUTPUTS["logits"]), [], Spool(), False)) == 0
    assert len(error_of(lambda x: (x.argmax(1),), torch.randn(14, 6))) == 0  # no floating output
