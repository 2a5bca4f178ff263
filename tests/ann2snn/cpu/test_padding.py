"""Zero padding becomes a part of the convolution behind it, and nothing else changes."""

from __future__ import annotations

import copy

import pytest
import torch
from nets import IMAGES
from torch import Tensor, fx, nn
from torch.nn import functional as F

import sj_parallel_conversion as sjpc
from sj_parallel_conversion.ann2snn.cpu.padding import fold_padding

PADS = {"pad": torch.ops.aten.pad.default, "constant_pad_nd": torch.ops.aten.constant_pad_nd.default}


def padded(conv: nn.Conv2d, operator: str, *arguments: object) -> fx.GraphModule:
    """
    :param conv: a convolution
    :param operator: what pads its input
    :param arguments: of the operator
    :return: a graph of both, with a copy of the convolution
    """
    graph = fx.Graph()
    y = graph.call_function(PADS[operator], (graph.placeholder("x"), *arguments))
    graph.output(graph.call_module("conv", (y,)))
    return fx.GraphModule({"conv": copy.deepcopy(conv)}, graph)


def paddings(net: fx.GraphModule) -> int:
    return sum("pad" in str(node.target) for node in net.graph.nodes if node.op == "call_function")


FOLDED = [
    (nn.Conv2d(4, 6, 3), [1, 1, 1, 1]), (nn.Conv2d(4, 6, 3, stride=2, padding=1), [2, 2, 0, 0]),
    (nn.Conv2d(4, 6, 3, bias=False), [1, 1]), (nn.Conv2d(3, 6, 3, stride=2), [0, 1, 0, 1]),
    (nn.Conv2d(4, 4, 3, stride=2, groups=4), [0, 1, 2, 0]), (nn.Conv2d(4, 8, 5, stride=2, groups=4), [1, 2, 1, 2]),
    (nn.Conv2d(4, 4, (3, 1), stride=3, groups=2, padding=(1, 0)), [3, 0, 0, 1]),
    (nn.Conv2d(4, 4, 3, groups=4, dilation=2), [0, 2, 3, 1]),
]  # fmt: skip


@pytest.mark.parametrize(("conv", "widths"), FOLDED)
@pytest.mark.parametrize("height", [9, 10])
@pytest.mark.parametrize(("operator", "more"), [("pad", ()), ("pad", ("constant", 0.0)), ("constant_pad_nd", (0,))])
@torch.no_grad()
def test_the_same_results(
    conv: nn.Conv2d, widths: list[int], height: int, operator: str, more: tuple[object, ...]
) -> None:
    x = torch.randn(2, conv.in_channels, height, 11, generator=torch.Generator().manual_seed(0))
    net = padded(conv, operator, widths, *more)
    expected = net(x)
    fold_padding(net)
    assert not paddings(net)
    torch.testing.assert_close(net(x), expected)
    assert conv.weight.shape[2:] == tuple(conv.kernel_size), "the network's copy is changed, and not the layer"


KEPT = [
    (nn.Conv2d(8, 6, 3, stride=2), [0, 1, 0, 1], ()),  # so many zeros would take longer than the padding
    (nn.Conv2d(3, 6, 3), [1, 1, 1, 1], ("constant", 1.0)), (nn.Conv2d(3, 6, 3), [1, 1, 1, 1], ("reflect",)),
    (nn.Conv2d(3, 6, 3), [-1, -1, 1, 1], ()), (nn.Conv2d(4, 6, 3), [0, 0, 0, 0, 0, 1], ()),
    (nn.Conv2d(3, 6, 3, padding="same"), [1, 1, 1, 1], ()),
    (nn.Conv2d(3, 6, 3, padding=1, padding_mode="circular"), [1, 1, 1, 1], ()),
    (nn.Conv2d(3, 3, 3, groups=3, dilation=2), [0, 1, 0, 1], ()),
]  # fmt: skip


@pytest.mark.parametrize(("conv", "widths", "more"), KEPT)
@torch.no_grad()
def test_what_a_convolution_cannot_do_stays(conv: nn.Conv2d, widths: list[int], more: tuple[object, ...]) -> None:
    x = torch.randn(2, conv.in_channels - (len(widths) == 6), 9, 11, generator=torch.Generator().manual_seed(0))
    net = padded(conv, "pad", widths, *more)
    expected = net(x)
    fold_padding(net)
    assert paddings(net) == 1 and torch.equal(net(x), expected)


class ReadTwice(nn.Module):
    """What is padded is read by two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one, self.two = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        """:param x: ``[N, 3, H, W]``. :return: ``[N, 4, H - 2, W - 2]``"""
        x = F.pad(self.stem(x).relu(), [1, 1, 1, 1])
        return self.one(x) + self.two(x)


@torch.no_grad()
def test_in_a_converted_network() -> None:
    torch.manual_seed(0)
    tensorflow = nn.Sequential(
        nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(3, 8, 3, stride=2), nn.ReLU6(), nn.ZeroPad2d((1, 2, 1, 2)),
        nn.Conv2d(8, 8, 5, stride=2, groups=8), nn.ReLU6(), nn.ZeroPad2d(1), nn.Conv2d(8, 4, 3),
    )  # fmt: skip
    for ann, left in ((tensorflow, 0), (ReadTwice(), 1)):
        options = {"time_steps": 16, "calibration": "none", "show_progress": False}
        snn = sjpc.ParallelConverter([IMAGES], **options).convert(ann.eval())
        count, expected = paddings(snn.net), snn.predict(IMAGES)
        for data in (None, [IMAGES]):
            small = sjpc.to_int8(snn, data)
            assert paddings(small.net) == left and len(small.operation_names) == len(small.net.graph.nodes)
            assert (small.predict(IMAGES) - expected).norm() < 0.05 * expected.norm()
        assert paddings(snn.net) == count > 0 and torch.equal(snn.predict(IMAGES), expected), "it is left as it was"
