"""What methods of the ANN find, set, delete and return, when they are asked of what stands for it."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from spikingjelly.activation_based import functional
from torch import Tensor, nn

import sj_parallel_conversion as sjpc


class Wrapper(nn.Module):
    """Names of its own are those of a spiking network as well, and its methods treat it as any object."""

    made, __slots__ = 0, ("slot",)

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.net, self.width, self._factor = nn.Linear(4, width), width, 1.0
        self._network = [self.net]

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.net(x))

    def predict(self, x: Tensor) -> Tensor:
        return self._decode(self(x))

    def _decode(self, y: Tensor) -> Tensor:
        return y.argmax(1)

    def accuracy(self, x: Tensor, labels: Tensor) -> float:
        return float((self.predict(x) == labels).float().mean())

    def features(self, x: Tensor) -> Tensor:
        return self.net(x)

    def first(self) -> nn.Module:
        return self._network[0]

    @classmethod
    def kind(cls) -> str:
        return "wrapper"

    def kinds(self) -> str:
        return self.kind() + type(self).kind()

    @property
    def factor(self) -> float:
        return self._factor

    @factor.setter
    def factor(self, value: float) -> None:
        self._factor = 2 * value

    def with_factor(self, value: float) -> Wrapper:
        self.factor = value
        return self

    def with_threshold(self, value: float) -> Wrapper:
        self.threshold = value
        return self

    def without_threshold(self) -> bool:
        del self.threshold
        return hasattr(self, "threshold")

    def another(self) -> Wrapper:
        type(self).made += 1
        assert type(self) in {Wrapper}
        return type(self)(self.width + 1)

    def of_a_copy(self, x: Tensor) -> Tensor:
        return copy.deepcopy(self)(x)

    def pickled(self) -> bytes:
        return pickle.dumps(self)


@pytest.fixture
def wrapper() -> sjpc.SpikingNetwork:
    torch.manual_seed(0)
    x = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    return sjpc.ParallelConverter([x], show_progress=False).convert(Wrapper().eval())


@torch.no_grad()
def test_methods_of_the_ann_find_its_own_methods_and_no_others(wrapper: sjpc.SpikingNetwork) -> None:
    x = torch.randn(16, 4)
    assert wrapper.accuracy(x, wrapper.predict(x).argmax(1)) == 1
    with pytest.raises(AttributeError, match="in its methods has no 'net': modules of the ANN"):
        wrapper.features(x)
    with pytest.raises(AttributeError, match="no attribute '_network'"):
        wrapper.first()
    assert wrapper.kinds() == "wrapperwrapper"
    with pytest.raises(AttributeError, match="no attribute 'slot'"):
        _ = wrapper.slot


def test_what_methods_set_and_delete(wrapper: sjpc.SpikingNetwork) -> None:
    assert wrapper.with_factor(3).factor == 6
    assert wrapper.with_threshold(0.5).threshold == 0.5 and wrapper.config.threshold == "mse"
    assert not wrapper.without_threshold()


@torch.no_grad()
def test_methods_that_return_copy_or_make_a_model(wrapper: sjpc.SpikingNetwork) -> None:
    x = torch.randn(16, 4)
    functional.set_step_mode(wrapper, "m")
    assert wrapper.with_factor(3) is wrapper
    assert torch.equal(wrapper.of_a_copy(x), wrapper.predict(x))
    assert torch.equal(pickle.loads(wrapper.pickled()).predict(x), wrapper.predict(x))
    another = wrapper.another()
    assert type(another) is Wrapper and another.width == 5 and Wrapper.made == 1
