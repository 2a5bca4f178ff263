"""Shapes that a batch shows, and the axis on which the channels of an activation lie."""

from __future__ import annotations

import operator

import pytest
import torch
from captured import captured
from nets import IMAGES, TOKENS, volume
from torch import Tensor, nn
from torch.nn import functional as F

import sj_parallel_conversion as sjpc
from sj_parallel_conversion.ann2snn import graph
from sj_parallel_conversion.ann2snn.data.inputs import Batch
from sj_parallel_conversion.ann2snn.graph.shapes import channel_axis, input_axis, record_shapes


class Before(nn.Module):
    """Some operation between a layer and its ReLU."""

    def __init__(self, layer: nn.Module, operation) -> None:
        super().__init__()
        self.layer, self.operation = layer, operation

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.operation(self.layer(x)))


def conv(dim: int = 2) -> nn.Module:
    return getattr(nn, f"Conv{dim}d")(3 if dim == 2 else 4, 4, 3)


def nothing(x: Tensor) -> Tensor:
    return x


@pytest.mark.parametrize(
    ("model", "x", "axis"),
    [
        pytest.param(Before(conv(1), nothing), volume(1), 1, id="conv 1d"),
        pytest.param(Before(conv(2), nothing), IMAGES, 1, id="conv 2d"),
        pytest.param(Before(conv(3), nothing), volume(3), 1, id="conv 3d"),
        pytest.param(Before(nn.ConvTranspose2d(3, 4, 3), nothing), IMAGES, 1, id="transposed"),
        pytest.param(Before(nn.Sequential(conv(), nn.BatchNorm2d(4)), nothing), IMAGES, 1, id="batch norm"),
        pytest.param(Before(nn.Sequential(conv(), nn.GroupNorm(2, 4)), nothing), IMAGES, 1, id="group norm"),
        pytest.param(Before(nn.Linear(6, 8), nothing), TOKENS[:, 0], 1, id="linear"),
        pytest.param(Before(nn.Linear(6, 8), nothing), TOKENS, -1, id="linear, tokens"),
        pytest.param(Before(nn.Linear(12, 8), nothing), IMAGES, -1, id="linear, 4-D"),
        pytest.param(Before(nn.LayerNorm(6), nothing), TOKENS, -1, id="layer norm"),
        pytest.param(Before(conv(), nn.MaxPool2d(2)), IMAGES, 1, id="max pool"),
        pytest.param(Before(conv(), nn.AvgPool2d(2)), IMAGES, 1, id="average pool"),
        pytest.param(Before(conv(), nn.Dropout2d()), IMAGES, 1, id="dropout"),
        pytest.param(Before(conv(), lambda x: x + 1), IMAGES, 1, id="plus constant"),
        pytest.param(Before(conv(), lambda x: 0.5 * x.mul(2)), IMAGES, 1, id="constant first"),
        pytest.param(Before(conv(), lambda x: torch.add(x, x)), IMAGES, 1, id="addition"),
        pytest.param(Before(conv(), lambda x: torch.cat([x, x], 1)), IMAGES, 1, id="concatenation"),
        pytest.param(Before(conv(), lambda x: x.mean((2, 3))), IMAGES, 1, id="global pooling"),
        pytest.param(Before(conv(), lambda x: x.flatten(1)), IMAGES, 1, id="flatten"),
        pytest.param(Before(conv(), lambda x: x.flatten(2).transpose(1, 2)), IMAGES, None, id="patches"),
        pytest.param(Before(conv(), lambda x: x.permute(0, 2, 3, 1)), IMAGES, 3, id="channels last"),
        pytest.param(Before(conv(), lambda x: x.transpose(1, 3)), IMAGES, 3, id="swapped"),
        pytest.param(Before(nn.Linear(6, 8), lambda x: x.transpose(1, 2)), TOKENS, 1, id="tokens last"),
        pytest.param(Before(conv(), lambda x: torch.cat([x, x], 3)), IMAGES, 1, id="side by side"),
        pytest.param(
            Before(conv(), lambda x: torch.cat([x, x.transpose(1, 2)], 3)), IMAGES[..., :6, :], None, id="two axes"
        ),
        pytest.param(Before(conv(), lambda x: F.interpolate(x, scale_factor=2)), IMAGES, 1, id="resampling"),
        pytest.param(Before(conv(), lambda x: F.pad(x, (1, 1))), IMAGES, 1, id="padding"),
        pytest.param(Before(conv(), lambda x: x[:, 1:]), IMAGES, 1, id="slice"),
        pytest.param(Before(nn.Linear(6, 8), lambda x: x.view(7, 5, 2, 4)), TOKENS, None, id="heads"),
        pytest.param(nn.ReLU(), IMAGES, None, id="input 4-D"),
        pytest.param(nn.ReLU(), TOKENS[:, 0], 1, id="input 2-D"),
        pytest.param(Before(conv(), operator.neg), IMAGES, 1, id="negative"),
        pytest.param(Before(conv(), lambda x: x.neg()), IMAGES, 1, id="negative, method"),
    ],
)
def test_channel_axis(model: nn.Module, x: Tensor, axis: int | None) -> None:
    net, _ = captured(model.eval(), x)
    (site,) = graph.activation_sites(net)
    found = channel_axis(net, site)
    assert found == axis or (found is not None and axis is not None and found % x.dim() == axis % x.dim())


@pytest.mark.parametrize(
    ("model", "x", "axis"),
    [
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), IMAGES, 1),
        (nn.Sequential(nn.Linear(12, 4), nn.ReLU()), IMAGES, -1),
        (nn.Sequential(nn.Linear(6, 4), nn.ReLU()), TOKENS[:, 0], 1),
        (nn.Sequential(nn.Flatten(), nn.Linear(30, 4), nn.ReLU()), TOKENS, None),
        (nn.Sequential(nn.LayerNorm(6), nn.ReLU()), TOKENS, -1),
    ],
)
def test_channels_of_the_input(model: nn.Module, x: Tensor, axis: int | None) -> None:
    net, _ = captured(model.eval(), x)
    assert input_axis(net, next(iter(net.graph.nodes))) == axis


def sequence() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(400, 2))


def test_shapes_are_those_of_the_values() -> None:
    net, _ = captured(sequence(), IMAGES)
    shapes = [node.meta["shape"] for node in net.graph.nodes if node.op != "output"]
    assert shapes == [(4, 3, 12, 12), (4, 4, 10, 10), (4, 4, 10, 10), (4, 400), (4, 2)]
    record_shapes(net, Batch((IMAGES[:3],), (True,)))
    assert [node.meta["shape"][0] for node in net.graph.nodes if node.op != "output"] == [3] * 5


def test_which_values_are_floating() -> None:
    class Counts(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.relu(x) * (x > 0).sum(1, keepdim=True)

    net, _ = captured(Counts(), IMAGES)
    floating = {str(node.target): node.meta["is_floating_point"] for node in net.graph.nodes if node.op != "output"}
    assert floating == {"x": True, "relu": True, "aten.gt.Scalar": False, "aten.sum.dim_IntList": False} | {
        "aten.mul.Tensor": True
    }


@pytest.mark.parametrize(("layer", "x"), [("'0'", IMAGES[:, :2]), ("'3'", IMAGES[..., :11, :])])
def test_a_batch_that_does_not_fit_the_network(layer: str, x: Tensor) -> None:
    net, _ = captured(sequence(), IMAGES)
    with pytest.raises(sjpc.DataError, match=f"fails on a calibration batch, at {layer}") as error:
        record_shapes(net, Batch((x,), (True,)))
    assert "While executing" not in str(error.value)


def test_thresholds_of_the_wrong_size_are_named() -> None:
    with pytest.raises(sjpc.DataError, match="QCFS has parameters for 5 channels"):
        captured(nn.Sequential(nn.Conv2d(3, 4, 3), sjpc.QCFS(4, torch.ones(5))), IMAGES)
