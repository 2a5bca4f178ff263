"""SpikingJelly's recipes for ReLU networks with all their documented settings, and a ResNet that they can convert."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable, Iterable, Iterator
from contextlib import redirect_stderr
from dataclasses import dataclass
from itertools import chain, repeat

import torch
from helpers.models import BasicBlock, CifarResNet
from helpers.rate_coding import settings
from spikingjelly.activation_based import ann2snn, functional, neuron
from torch import Tensor, nn

# The thresholds of local threshold balancing only grow. One pass keeps them small, for few time-steps; 25 passes over
# 16 batches are the 391 batches of SpikingJelly's own example.
PASSES = (1, 4, 25)

Convert = Callable[[nn.Module], nn.Module]


class ModuleBlock(nn.Module):
    """
    A block with a module for every operation.

    :param block: where the layers come from
    """

    def __init__(self, block: BasicBlock) -> None:
        super().__init__()
        self.conv1, self.bn1, self.relu1 = block.conv1, block.bn1, nn.ReLU()
        self.conv2, self.bn2, self.relu2 = block.conv2, block.bn2, nn.ReLU()
        self.shortcut = nn.Sequential()
        if block.stride != 1 or block.new_channels != 0:
            self.shortcut = self._shortcut(block)

    @staticmethod
    def _shortcut(block: BasicBlock) -> nn.Conv2d:
        # Subsampling and channels of zeros are a 1x1 convolution with weights of 0 and 1.
        channels = block.conv1.in_channels
        conv = nn.Conv2d(channels, channels + block.new_channels, 1, block.stride, bias=False).to(block.conv1.weight)
        nn.init.zeros_(conv.weight)
        with torch.no_grad():
            conv.weight[block.new_channels // 2 :][:channels, :, 0, 0].fill_diagonal_(1)
        return conv

    def forward(self, x: Tensor) -> Tensor:
        """As the block that it is a copy of."""
        out = self.relu1(self.bn1(self.conv1(x)))
        return self.relu2(self.bn2(self.conv2(out)) + self.shortcut(x))


def with_modules(ann: CifarResNet) -> nn.Sequential:
    """
    :param ann: a network for 32x32 images whose ReLUs and padding are functions, which SpikingJelly's recipes refuse
    :return: a copy that computes the same with modules
    """
    ann = copy.deepcopy(ann)
    blocks = [ModuleBlock(block) for stage in (ann.layer1, ann.layer2, ann.layer3) for block in stage]
    return nn.Sequential(ann.conv1, ann.bn1, nn.ReLU(), *blocks, nn.AvgPool2d(8), nn.Flatten(), ann.linear).eval()


@dataclass(frozen=True)
class Passes:
    """
    Calibration data, again and again.

    :param loader: the data
    :param number: of passes
    """

    loader: Iterable
    number: int

    def __iter__(self) -> Iterator:
        return chain.from_iterable(repeat(self.loader, self.number))


def recipes(ann: nn.Module, loader: Iterable) -> dict[str, dict[str, Convert]]:
    """
    :param ann: the network; without max pooling, settings that differ in it are left out
    :param loader: calibration data, batches ``(x, y)``
    :return: converters by recipe and setting, for all recipes of the installed release that take ReLU networks
    """
    pools = any(isinstance(module, nn.MaxPool2d) for module in ann.modules())
    found = {
        "SpikingJelly, rate coding": {name: run for name, run in settings(loader) if pools or "pool first" not in name}
    }
    if hasattr(ann2snn, "LocalThresholdBalancingRecipe"):
        found["SpikingJelly, local threshold balancing"] = {
            f"passes={n}": ann2snn.Converter(recipe=ann2snn.LocalThresholdBalancingRecipe(Passes(loader, n))).convert
            for n in PASSES
        }
    return found


def convert(ann: nn.Module, converter: Convert) -> nn.Module:
    """
    :param ann: trained network, left as it is
    :param converter: of :func:`recipes`
    :return: the spiking network
    :raises ValueError: if nothing spikes in it
    """
    with redirect_stderr(io.StringIO()):  # progress bars
        snn = converter(copy.deepcopy(ann)).eval()  # 0.0.0.0.14 shares storage with what it converts
    if not any(isinstance(module, neuron.BaseNode) for module in snn.modules()):
        raise ValueError("the recipe found no nn.ReLU and placed no neuron")
    return snn


def step_logits(snn: nn.Module, time_steps: int, x: Tensor) -> Tensor:
    """
    :param snn: of :func:`convert`
    :param time_steps: T
    :param x: images ``[N, ...]``
    :return: logits ``[T, N, classes]`` of each time-step: the sums over their beginnings are the answers for any T
    """
    functional.reset_net(snn)
    logits = torch.stack([snn(x) for _ in range(time_steps)])
    functional.reset_net(snn)  # membranes of a whole batch, of many networks that wait to be compared
    return logits
