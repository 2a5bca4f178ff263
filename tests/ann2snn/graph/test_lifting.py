"""Layers that are not quite torch's own: subclasses, layers written as functions, and hooks that change values."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator

import pytest
import torch
from captured import captured
from nets import IMAGES, lively
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

import sj_parallel_conversion as sjpc

EXACT = {"mode": "css", "time_steps": 12, "threshold": "max", "show_progress": False}


def convert(ann: nn.Module, x: Tensor = IMAGES, **options: object) -> sjpc.SpikingNetwork:
    return sjpc.ParallelConverter([x], **EXACT | options).convert(ann)


@torch.no_grad()
def assert_near(snn: sjpc.SpikingNetwork, ann: nn.Module, x: Tensor = IMAGES) -> None:
    """css with 12 steps has 4096 levels."""
    torch.testing.assert_close(snn.predict(x), ann(x), rtol=0, atol=0.01 * float(ann(x).abs().max()))


class SquaredReLU(nn.ReLU):
    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x) ** 2


class StandardisedConv(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        w = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return self._conv_forward(x, w / w.std((1, 2, 3), keepdim=True), self.bias)


class SamePadding(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(F.pad(x, (0, 1, 1, 0)), self.weight, self.bias, self.stride, self.padding)


class Doubled(nn.BatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 2 + 1


class ActivatedNorm(nn.BatchNorm2d):
    """Norm and activation in one, as in image models."""

    def forward(self, x: Tensor) -> Tensor:
        y = F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.1, self.eps)
        return F.relu(y)


class Residual(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


class Masked(nn.Linear):
    def __init__(self, *size: int) -> None:
        super().__init__(*size)
        self.register_buffer("mask", (torch.arange(self.weight.numel()) % 3 > 0).float().view_as(self.weight))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.mask, self.bias)


KINDS: dict[str, Callable[[], nn.Module]] = {
    "squared ReLU": SquaredReLU,
    "standardised convolution": lambda: nn.Sequential(StandardisedConv(6, 6, 3), nn.BatchNorm2d(6), nn.ReLU()),
    "same padding": lambda: nn.Sequential(SamePadding(6, 6, 2), nn.BatchNorm2d(6), nn.ReLU()),
    "doubled norm": lambda: nn.Sequential(Doubled(6), nn.ReLU()),
    "activated norm": lambda: nn.Sequential(nn.Conv2d(6, 6, 3), ActivatedNorm(6)),
    "residual": lambda: nn.Sequential(Residual(nn.Conv2d(6, 6, 1), nn.ReLU()), nn.ReLU()),
    "masked": lambda: nn.Sequential(nn.Flatten(2), Masked(100, 20), nn.ReLU()),
}


def net(kind: str) -> nn.Module:
    torch.manual_seed(0)
    return lively(nn.Sequential(nn.Conv2d(3, 6, 3), KINDS[kind](), nn.Flatten(), nn.LazyLinear(5)), IMAGES)


@pytest.mark.parametrize("calibration", ["none", "least_squares", "weights"])
@pytest.mark.parametrize("kind", KINDS)
def test_subclasses_compute_what_they_compute(kind: str, calibration: str) -> None:
    ann = net(kind)
    snn = convert(ann, calibration=calibration)
    assert_near(snn, ann)
    assert not sjpc.inspect(snn, show=False).analogue


@pytest.fixture
def leaves() -> Iterator[None]:
    kinds = [SquaredReLU, StandardisedConv, Doubled]
    for kind in kinds:
        sjpc.register_leaf(kind)
    yield
    for kind in kinds:
        sjpc.unregister_leaf(kind)


@pytest.mark.parametrize("calibration", ["none", "least_squares", "weights"])
@pytest.mark.parametrize("kind", ["standardised convolution", "doubled norm"])
@pytest.mark.usefixtures("leaves")
def test_a_subclass_that_is_a_leaf_stays_whole(kind: str, calibration: str) -> None:
    ann = net(kind)
    snn = convert(ann, calibration=calibration)
    assert_near(snn, ann)
    (leaf,) = (m for m in snn.net.modules() if isinstance(m, (StandardisedConv, Doubled)))
    for name, value in ann[1][0].state_dict().items():
        assert torch.equal(leaf.state_dict()[name], value), "nothing is folded into it"
    assert "1.0" in {row.name for row in sjpc.inspect(snn, show=False).analogue}


@pytest.mark.usefixtures("leaves")
def test_an_activation_that_is_a_leaf_is_no_neuron() -> None:
    with pytest.raises(sjpc.ConversionError, match="no activation"):
        convert(net("squared ReLU"))


class AsFunctions(nn.Module):
    """A network with its layers called as functions."""

    def __init__(self, layers: nn.ModuleDict) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, x: Tensor) -> Tensor:
        a, b, n, c, g, h = (self.layers[name] for name in ("a", "b", "n", "c", "g", "h"))
        x = F.relu(F.conv2d(x, a.weight, a.bias, padding=1))
        x = F.batch_norm(F.conv2d(x, b.weight, None, stride=2), n.running_mean, n.running_var, n.weight, n.bias)
        x = F.conv_transpose2d(F.relu(x), c.weight, c.bias, stride=2)
        x = F.max_pool2d(F.relu(F.group_norm(x, 2, g.weight, g.bias)), 2).flatten(1)
        return F.linear(x, h.weight, h.bias)


class AsModules(AsFunctions):
    def forward(self, x: Tensor) -> Tensor:
        layers = self.layers
        x = F.relu(layers["n"](layers["b"](F.relu(layers["a"](x)))))
        return layers["h"](F.max_pool2d(F.relu(layers["g"](layers["c"](x))), 2).flatten(1))


def layers() -> nn.ModuleDict:
    torch.manual_seed(0)
    found = nn.ModuleDict(
        {
            "a": nn.Conv2d(3, 8, 3, padding=1), "b": nn.Conv2d(8, 8, 3, stride=2, bias=False), "n": nn.BatchNorm2d(8),
            "c": nn.ConvTranspose2d(8, 4, 2, stride=2), "g": nn.GroupNorm(2, 4), "h": nn.Linear(100, 5),
        }
    )  # fmt: skip
    with torch.no_grad():
        found["n"].weight.copy_(torch.logspace(-1.5, 1, 8))  # channels of different size
        found["n"].running_mean.normal_()
    return found.eval()


@pytest.mark.parametrize("calibration", ["none", "weights"])
@torch.no_grad()
def test_layers_as_functions_are_layers(calibration: str) -> None:
    ones, others = (
        convert(kind(layers()), calibration=calibration, time_steps=4) for kind in (AsModules, AsFunctions)
    )
    assert torch.equal(ones.predict(IMAGES), others.predict(IMAGES))
    kinds = [[type(m).__name__ for m in snn.net.modules() if not list(m.children())] for snn in (ones, others)]
    assert sorted(kinds[0]) == sorted(kinds[1])
    assert "BatchNorm2d" not in kinds[0] and kinds[0].count("Conv2d") == 2
    assert_near(convert(AsFunctions(layers())), AsFunctions(layers()))
    thresholds = [site.node.v_threshold.shape for site in others.neurons()]
    assert thresholds == [site.node.v_threshold.shape for site in ones.neurons()] == [(8,), (8,), (4,)]


def test_norms_as_functions_convert_strictly() -> None:
    assert_near(convert(net("activated norm"), strict=True), net("activated norm"))
    found = sjpc.inspect(convert(AsFunctions(layers()), strict=True), show=False)
    assert "GroupNorm" in {row.operation for row in found.normalisations}


@pytest.mark.parametrize("norm", [nn.LayerNorm([4, 12, 12]), nn.GroupNorm(2, 4), nn.InstanceNorm2d(4, affine=True)])
def test_thresholds_lie_along_channels_behind_norms(norm: nn.Module) -> None:
    ann = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), norm, nn.ReLU(), nn.Flatten(), nn.LazyLinear(5))
    (site,) = convert(lively(ann, IMAGES)).neurons()
    assert site.node.v_threshold.shape == (4,) and site.node.channel_dim % 4 == 1


class ChannelsLast(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 5), nn.Linear(3, 7)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(torch.cat([self.a(x), self.b(x)], -1)).mean((1, 2))


def test_thresholds_lie_along_channels_that_are_last() -> None:
    (site,) = convert(ChannelsLast().eval(), torch.randn(8, 6, 9, 3)).neurons()
    assert site.node.v_threshold.shape == (12,)


@pytest.mark.parametrize(
    "norm", [nn.utils.spectral_norm, nn.utils.weight_norm, parametrizations.weight_norm, parametrizations.spectral_norm]
)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_networks_with_computed_weights_are_saved(norm: Callable) -> None:
    torch.manual_seed(0)
    ann = nn.Sequential(norm(nn.Conv2d(3, 8, 3)), nn.LeakyReLU(0.2), nn.Flatten(), norm(nn.Linear(800, 1))).eval()
    snn = convert(ann)
    assert_near(snn, ann)
    assert snn.load_state_dict(snn.state_dict()).unexpected_keys == []
    assert torch.equal(pickle.loads(pickle.dumps(snn)).predict(IMAGES), snn.predict(IMAGES))
    assert not any(m._forward_pre_hooks or m._load_state_dict_pre_hooks for m in snn.net.modules())


def test_a_convolution_in_a_capture_keeps_its_memory_format() -> None:
    ann = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()).to(memory_format=torch.channels_last).eval()
    model, _ = captured(ann, IMAGES.to(memory_format=torch.channels_last))
    torch.testing.assert_close(model(IMAGES)[0], ann(IMAGES))


class Speech(nn.Module):
    """A leaf between the input and the first neuron, or behind one."""

    def __init__(self, first: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = first
        self.lstm, self.a, self.b = nn.LSTM(8, 8, 2, batch_first=True), nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.lstm(x)[0] if self.first else x
        x = torch.relu(self.a(x))
        x = x if self.first else self.lstm(x)[0]
        return self.b(x[:, -1])


@pytest.fixture
def lstm_is_a_leaf() -> Iterator[None]:
    sjpc.register_leaf(nn.LSTM)
    yield
    sjpc.unregister_leaf(nn.LSTM)


@pytest.mark.parametrize("first", [True, False], ids=["at the input", "behind a neuron"])
@pytest.mark.usefixtures("lstm_is_a_leaf")
def test_a_leaf_is_in_the_table_wherever_it_stands(first: bool) -> None:
    ann, x = Speech(first).eval(), torch.randn(6, 5, 8, generator=torch.Generator().manual_seed(0))
    snn = convert(ann, x, calibration="none")
    assert_near(snn, ann, x)
    inspection = sjpc.inspect(snn, show=False)
    (row,) = inspection.analogue
    assert row.name == "lstm" and row.operation == "LSTM"
    assert row.macs == 5 * 2 * 4 * 8 * (8 + 8), "two layers of four gates, at five steps"
    assert inspection.macs > row.macs
    behind = {r.name: r.receives for r in inspection.rows}
    assert "analogue" in behind["a" if first else "b"]
    with pytest.raises(sjpc.ConversionError, match=r"strict=True.*lstm \(LSTM\)"):
        convert(ann, x, strict=True)


@pytest.mark.parametrize("inside", [True, False])
@torch.no_grad()
def test_a_model_that_was_compiled_in_place_is_not_compiled_again(inside: bool) -> None:
    compiled = []

    def backend(graph: torch.fx.GraphModule, example: list[Tensor]) -> Callable:
        compiled.append(graph)
        return graph.forward

    ann = net("residual")
    expected = convert(ann).predict(IMAGES)
    (ann[1] if inside else ann).compile(backend=backend)
    before = ann(IMAGES)
    assert len(compiled) == 1
    snn = convert(ann)
    assert torch.equal(snn.predict(IMAGES), expected) and len(compiled) == 1
    snn = sjpc.ParallelConverter([IMAGES], **EXACT).convert(nn.Sequential(ann, nn.Identity()), submodules=["0"])
    assert torch.equal(snn(IMAGES), expected)
    torch.testing.assert_close(ann(IMAGES), before)
    assert len(compiled) == 1, "the ANN stays compiled"


@torch.no_grad()
def test_a_transposed_convolution_whose_output_is_as_large_as_another_map() -> None:
    class Decodes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.down, self.up = nn.Conv2d(3, 6, 3, 2, 1), nn.ConvTranspose2d(6, 3, 3, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.up(torch.relu(self.down(x)), output_size=x.shape[2:])

    torch.manual_seed(0)
    ann = Decodes().eval()
    snn = convert(ann)
    assert_near(snn, ann)
    for x in (IMAGES[:2, :, :-2], IMAGES[:1, :, :, :-1], IMAGES[:, :, 1:, 2:]):
        # the graph, as maps that are cut otherwise have larger values than the thresholds
        model, signature = captured(ann, IMAGES)
        torch.testing.assert_close(signature.build(model(*signature.batch((x,), {}).tensors)), ann(x))
    assert sjpc.inspect(snn, show=False).share_after_input == 1
