"""Layers that are written as functions, norms among them, and layers with computed weights."""

from __future__ import annotations

import pickle
from collections.abc import Callable

import pytest
import torch
from captured import captured
from nets import IMAGES, lively
from odd_layers import assert_near, convert, net
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

import sj_parallel_conversion as sjpc


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
