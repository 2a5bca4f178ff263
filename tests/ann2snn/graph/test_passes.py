"""Passes leave the outputs of a network as they were, and the ANN as it was."""

from __future__ import annotations

import pytest
import torch
import torchvision
from captured import captured, captured_net, modules_of
from nets import NETS, conv_bn_relu, lively, volume
from torch import Tensor, fx, nn
from torchvision.models.googlenet import Inception
from torchvision.models.mobilenetv2 import InvertedResidual as InvertedResidualV2
from torchvision.models.shufflenetv2 import InvertedResidual

from sj_parallel_conversion.ann2snn import graph
from sj_parallel_conversion.ann2snn.graph.passes import free_name

PICTURES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def fused(ann: nn.Module, x: Tensor) -> fx.GraphModule:
    model, _ = captured(ann, x)
    graph.fuse_batchnorms(model)
    return model


def count(model: fx.GraphModule, kind: type[nn.Module] | tuple) -> int:
    return sum(isinstance(module, kind) for module in modules_of(model).values())


def assert_same(actual: object, expected: object) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NETS)
@torch.no_grad()
def test_small_networks(name: str) -> None:
    ann, x, model = captured_net(name)
    expected = ann(x.clone())
    graph.fuse_batchnorms(model)
    model.graph.lint()
    kept = x.clone()
    assert_same(model(x)[0], expected)
    assert torch.equal(x, kept), "the input was written to"


@pytest.mark.parametrize(
    ("make", "left"),
    [
        pytest.param(lambda: torchvision.models.resnet18(num_classes=10), 0, id="resnet18"),
        pytest.param(lambda: torchvision.models.vgg11_bn(init_weights=False).features[:11], 0, id="vgg11_bn"),
        pytest.param(lambda: torchvision.models.DenseNet(8, (2,), 16).features, None, id="densenet"),
        pytest.param(lambda: Inception(3, 4, 6, 8, 2, 4, 4), 0, id="googlenet"),
        pytest.param(lambda: InvertedResidual(3, 8, 2), 0, id="shufflenet"),
        pytest.param(lambda: InvertedResidualV2(3, 3, 1, 6), 0, id="mobilenet_v2"),
    ],
)
@torch.no_grad()
def test_torchvision_models(make, left: int | None) -> None:
    """Real models, or a block of each; ``left`` BatchNorms are not fed by a convolution alone."""
    torch.manual_seed(0)
    ann = lively(make(), PICTURES)
    expected = ann(PICTURES)
    model = fused(ann, PICTURES)
    torch.testing.assert_close(model(PICTURES)[0], expected, rtol=1e-3, atol=1e-4 * expected.abs().max().item())
    assert graph.activation_sites(model)
    if left is not None:
        assert count(model, nn.BatchNorm2d) == left


@pytest.mark.parametrize(
    ("name", "norms_left"),
    [
        ("conv 1d", 0),
        ("conv 2d", 0),
        ("conv 3d", 0),
        ("conv 2d, groups, no bias", 0),
        ("transposed 1d", 0),
        ("transposed 2d, stride", 0),
        ("transposed 3d", 0),
        ("transposed 2d, groups", 1),
        ("mlp", 0),
        ("tokens, norm over channels", 1),
        ("tokens, norm over tokens", 1),
        ("shared conv", 0),
        ("norm of two convs", 0),
        ("conv with two norms", 2),
        ("conv read twice", 1),
        ("concatenated", 1),
    ],
)
def test_which_norms_are_fused(name: str, norms_left: int) -> None:
    _, _, model = captured_net(name)
    graph.fuse_batchnorms(model)
    norms = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
    assert count(model, norms) == norms_left
    assert sum(isinstance(module, norms) for module in model.modules()) == norms_left, "unused modules are kept"


@pytest.mark.parametrize("options", [{"affine": False}, {"track_running_stats": False}, {"eps": 0.5}])
@torch.no_grad()
def test_options_of_batchnorm(options: dict) -> None:
    ann = nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6, **options), nn.ReLU()).eval()
    x = volume(2)
    model = fused(ann, x)
    assert_same(model(x)[0], ann(x))
    assert count(model, nn.BatchNorm2d) == 0
    by_the_batch = [node for node in model.graph.nodes if "batch_norm" in node.name]
    assert len(by_the_batch) == ("track_running_stats" in options), "there is nothing to fuse"


@torch.no_grad()
def test_computed_weights_are_fused() -> None:
    ann = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 6, 3)), nn.BatchNorm2d(6), nn.ReLU()).eval()
    x = volume(2)
    model = fused(ann, x)
    assert_same(model(x)[0], ann(x))
    assert count(model, nn.BatchNorm2d) == 0


@torch.no_grad()
def test_float64_stays_float64() -> None:
    ann, x = conv_bn_relu(2).double(), volume(2).double()
    model = fused(lively(ann, x), x)
    torch.testing.assert_close(model(x)[0], ann(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["shared relu", "shared conv"])
def test_one_module_per_call(name: str) -> None:
    _, _, model = captured_net(name)
    targets = [node.target for node in model.graph.nodes if node.op == "call_module"]
    assert len(set(targets)) == len(targets) == len(set(map(id, modules_of(model).values())))


def test_copies_of_a_shared_layer_are_independent() -> None:
    _, _, model = captured_net("shared conv")
    first, second = (module for module in modules_of(model).values() if isinstance(module, nn.Conv2d))
    assert first.weight.data_ptr() != second.weight.data_ptr()


def test_free_names() -> None:
    model = nn.Sequential(nn.ReLU(), nn.Sequential(nn.ReLU()))
    assert free_name(model, "relu") == "relu"
    assert free_name(model, "0") == "0_1"
    assert free_name(model, "1.0") == "1.0_1"
    assert free_name(model, "forward") == "forward_1"
    model.add_module("0_1", nn.ReLU())
    assert free_name(model, "0") == "0_2"
