"""``len(x)`` while a model is captured."""

from __future__ import annotations

import pytest
import torch
from captured import captured
from torch import Tensor, nn

from sj_parallel_conversion.ann2snn.graph.lengths import free_lengths


def flattened(x: Tensor) -> Tensor:
    return x.reshape(len(x), -1)


class Flattens(nn.Module):
    """Asks for the number of samples in its own code, and in a function that it holds."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head, self.function = nn.Conv2d(3, 4, 3), nn.Linear(36, 2), flattened

    def forward(self, x: Tensor) -> Tensor:
        assert len([1, 2]) == 2 and len("abc") == 3 and len(x.shape) == 4
        y = self.function(torch.relu(self.conv(x)))
        return self.head(y).reshape(len(x) * 2)


def test_the_batch_size_stays_free() -> None:
    ann, x = Flattens().eval(), torch.randn(4, 3, 5, 5)
    model, signature = captured(ann, x)
    assert not signature.sizes.fixed_batch
    for n in (1, 3, 7):
        torch.testing.assert_close(model(torch.ones(n, 3, 5, 5))[0], ann(torch.ones(n, 3, 5, 5)))


def test_tensors_with_values_have_numbers() -> None:
    model = Flattens()
    with free_lengths(model):
        assert "len" in globals()
        assert type(len(torch.zeros(3, 2))) is int and len(torch.zeros(3, 2)) == 3
        assert len([1]) == 1 and len({1: 2, 3: 4}) == 2
        with pytest.raises(TypeError, match="0-d tensor"):
            len(torch.tensor(1.0))
    assert "len" not in globals()


def test_a_function_of_the_user_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "len", lambda x: 99)
    with free_lengths(Flattens()):
        assert len("abc") == 99
    assert len("abc") == 99


def test_it_is_taken_back_after_an_error() -> None:
    with pytest.raises(KeyError), free_lengths(Flattens()):
        raise KeyError
    assert "len" not in globals() and "len" not in vars(nn)
