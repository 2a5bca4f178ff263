"""Every spelling of a ReLU is known as one, and its like with other bounds is not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

import sj_parallel_conversion as sjpc
from sj_parallel_conversion.training.relus import ReLUCall, is_relu, relu_call

X = torch.tensor([-2.0, 0.5, 9.0])

NEW = {
    "F.relu": lambda x: F.relu(x),
    "torch.relu": lambda x: torch.relu(x),
    "method relu": lambda x: x.relu(),
    "F.relu6": lambda x: F.relu6(x),
    "F.hardtanh": lambda x: F.hardtanh(x, 0, 6),
    "F.hardtanh by name": lambda x: F.hardtanh(x, min_val=0.0, max_val=2.0),
    "torch.clamp": lambda x: torch.clamp(x, min=0),
    "torch.clamp by position": lambda x: torch.clamp(x, 0),
    "torch.clamp of input=": lambda x: torch.clamp(input=x, min=0, max=3),
    "torch.clip": lambda x: torch.clip(x, 0, 3),
    "torch.clamp_min": lambda x: torch.clamp_min(x, 0),
    "method clamp": lambda x: x.clamp(min=0),
    "method clamp, two bounds": lambda x: x.clamp(0.0, 6),
    "method clip": lambda x: x.clip(0),
    "method clamp_min": lambda x: x.clamp_min(0),
    "operator": lambda x: torch.ops.aten.relu(x),
    "overload": lambda x: torch.ops.aten.clamp.default(x, 0),
    "nn.ReLU": lambda x: nn.ReLU()(x),
    "nn.ReLU6": lambda x: nn.ReLU6()(x),
    "nn.Hardtanh": lambda x: nn.Hardtanh(0, 1)(x),
}
IN_PLACE = {
    "F.relu, in place": lambda x: F.relu(x, inplace=True),
    "F.relu, in place by position": lambda x: F.relu(x, True),
    "F.relu_": lambda x: F.relu_(x),
    "torch.relu_": lambda x: torch.relu_(x),
    "method relu_": lambda x: x.relu_(),
    "F.relu6, in place": lambda x: F.relu6(x, inplace=True),
    "F.hardtanh, in place": lambda x: F.hardtanh(x, 0, 6, inplace=True),
    "F.hardtanh_": lambda x: F.hardtanh_(x, 0, 6),
    "torch.clamp_": lambda x: torch.clamp_(x, min=0),
    "torch.clip_": lambda x: torch.clip_(x, 0),
    "torch.clamp_min_": lambda x: torch.clamp_min_(x, 0),
    "torch.clamp to its input": lambda x: torch.clamp(x, min=0, out=x),
    "method clamp_": lambda x: x.clamp_(min=0),
    "method clip_": lambda x: x.clip_(0, 2),
    "method clamp_min_": lambda x: x.clamp_min_(0),
    "operator, in place": lambda x: torch.ops.aten.relu_.default(x),
    "nn.ReLU, in place": lambda x: nn.ReLU(inplace=True)(x),
    "nn.ReLU6, in place": lambda x: nn.ReLU6(inplace=True)(x),
}
OTHERS = {
    "clamp from -1": lambda x: x.clamp(-1, 3),
    "clamp of a divisor": lambda x: x.clamp(min=1e-6),
    "clamp to nothing": lambda x: x.clamp(0, 0),
    "clamp from above": lambda x: x.clamp(max=3),
    "clamp by a tensor": lambda x: x.clamp(torch.zeros(3), torch.ones(3)),
    "hardtanh": lambda x: F.hardtanh(x),
    "nn.Hardtanh": lambda x: nn.Hardtanh()(x),
    "leaky": lambda x: F.leaky_relu(x),
    "sigmoid": lambda x: x.sigmoid(),
    "indices": lambda x: x.long().clamp(min=0),
    "relu of whole numbers": lambda x: x.int().relu(),
}


class Calls(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[ReLUCall] = []

    def __torch_function__(
        self, func: Callable, types: object, args: tuple = (), kwargs: dict[str, object] | None = None
    ) -> object:
        call = relu_call(func, args, kwargs or {})
        self.found += [call] if call else []
        return func(*args, **(kwargs or {}))


def calls(function: Callable[[Tensor], Tensor], x: Tensor) -> list[ReLUCall]:
    with Calls() as mode:
        function(x)
    return mode.found


@pytest.mark.parametrize("spelling", NEW)
def test_spellings(spelling: str) -> None:
    x = X.clone()
    (call,) = calls(NEW[spelling], x)
    assert call.x is x and call.target is None


@pytest.mark.parametrize("spelling", IN_PLACE)
def test_spellings_in_place(spelling: str) -> None:
    x = X.clone()
    (call,) = calls(IN_PLACE[spelling], x)
    assert call.x is x and call.target is x


@pytest.mark.parametrize("spelling", OTHERS)
def test_what_is_none(spelling: str) -> None:
    assert not calls(OTHERS[spelling], X.clone())


class Squared(nn.ReLU):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) ** 2


class Named(nn.ReLU):
    """Another name for the same."""


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (nn.ReLU(), True), (nn.ReLU6(), True), (nn.Hardtanh(0, 3), True), (Named(), True), (nn.Hardtanh(), False),
        (Squared(), False), (nn.LeakyReLU(), False), (sjpc.ClipReLU(), False), (nn.Sequential(nn.ReLU()), False),
    ],
)  # fmt: skip
def test_modules(module: nn.Module, expected: bool) -> None:
    assert is_relu(module) == expected


@pytest.mark.parametrize("relu", [F.relu, torch.relu, "relu", nn.ReLU()])
@pytest.mark.filterwarnings("ignore:.*nested.tensor")
@torch.no_grad()
def test_transformer_layers_of_torch(relu: object) -> None:
    """In evaluation mode torch computes such a layer at once, past its activation."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, activation=relu, batch_first=True)
    ann = nn.TransformerEncoder(layer, 2).eval()
    x, padding = torch.randn(3, 5, 8), torch.arange(5).expand(3, 5) > torch.tensor([[4], [2], [3]])
    replaced = sjpc.replace_activations(ann, sjpc.ClipReLU, v_threshold=1e6)
    assert sum(isinstance(module, sjpc.ClipReLU) for module in replaced.modules()) == 2
    for model in (ann, replaced):
        model.eval()
    torch.testing.assert_close(replaced(x), ann(x))
    expected = ann(x, src_key_padding_mask=padding)
    found = replaced(x, src_key_padding_mask=padding)
    torch.testing.assert_close(found[~padding], expected[~padding])
    replaced.layers[0].activation.v_threshold.fill_(1e-3)
    assert not torch.allclose(replaced(x), ann(x)), "the activation is what computes"


@pytest.mark.parametrize("relu", [F.relu, nn.ReLU()])
def test_transformer_decoder_layers_of_torch(relu: object) -> None:
    torch.manual_seed(0)
    ann = nn.TransformerDecoderLayer(8, 2, 16, 0.0, activation=relu, batch_first=True)
    x, memory = torch.randn(3, 5, 8), torch.randn(3, 4, 8)
    with pytest.raises(sjpc.ConfigError, match=r"0 \(TransformerDecoderLayer\) names relu"):
        sjpc.replace_activations(nn.Sequential(ann), sjpc.ClipReLU)
    replaced = sjpc.replace_activations(ann, sjpc.ClipReLU, [(x, memory)], v_threshold=1e6)
    assert torch.equal(replaced(x, memory), ann(x, memory))
    for module in replaced.modules():
        if isinstance(module, sjpc.ClipReLU):
            module.v_threshold.data.fill_(1e-3)
    assert not torch.allclose(replaced(x, memory), ann(x, memory))


@pytest.mark.parametrize(
    "layer", [nn.RNN(3, 4, nonlinearity="relu", batch_first=True), nn.RNNCell(3, 4, nonlinearity="relu")]
)
@pytest.mark.parametrize("data", [None, [torch.rand(2, 5, 3)]])
def test_recurrent_layers_of_torch_are_refused(layer: nn.Module, data: list[Tensor] | None) -> None:
    ann = nn.Sequential(nn.ReLU(), layer)
    with pytest.raises(sjpc.ConversionError, match=rf"inside 1 \({type(layer).__name__}\) cannot be replaced"):
        sjpc.replace_activations(ann, sjpc.ClipReLU, data)
