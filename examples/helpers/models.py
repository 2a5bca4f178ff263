"""The networks of the examples: those of SpikingJelly's tutorials, and the CIFAR ResNets as users write them."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


def digits_cnn() -> nn.Sequential:
    """
    :return: a small CNN for 8x8 images, with BatchNorm and max pooling; 10 classes
    """
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(64 * 2 * 2, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip


class ResidualBlock(nn.Module):
    """
    Two 3x3 convolutions and a shortcut, with a module for each ReLU, as SpikingJelly's own conversion wants it.

    :param in_channels: channels of the input
    :param channels: channels of the output
    :param stride: of the first convolution
    """

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu2 = nn.ReLU()
        self.shortcut = nn.Sequential()
        if stride != 1 or channels != in_channels:
            conv = nn.Conv2d(in_channels, channels, 1, stride, bias=False)
            self.shortcut = nn.Sequential(conv, nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        """
        :param x: ``[N, in_channels, H, W]``
        :return: ``[N, channels, H / stride, W / stride]``
        """
        out = self.relu1(self.bn1(self.conv1(x)))
        return self.relu2(self.bn2(self.conv2(out)) + self.shortcut(x))


def digits_resnet(blocks: int = 5, channels: int = 8) -> nn.Sequential:
    """
    :param blocks: in each of the three stages
    :param channels: of the first stage; the others have twice and four times as many
    :return: a ResNet-32 (with ``blocks=5``) for 8x8 images, 10 classes
    """
    layers = [nn.Conv2d(1, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()]
    for stage in range(3):
        width = channels * 2**stage
        layers.append(ResidualBlock(max(channels, width // 2), width, 1 if stage == 0 else 2))
        layers += [ResidualBlock(width, width, 1) for _ in range(blocks - 1)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * channels, 10))


class BasicBlock(nn.Module):
    """
    Two 3x3 convolutions and an option-A shortcut: stride-2 subsampling, zeros for the new channels.

    :param in_channels: channels of the input
    :param channels: channels of the output
    :param stride: of the first convolution
    """

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.new_channels = channels - in_channels
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def shortcut(self, x: Tensor) -> Tensor:
        """
        :param x: ``[N, in_channels, H, W]``
        :return: ``[N, channels, H / stride, W / stride]``
        """
        if self.stride == 1 and self.new_channels == 0:
            return x
        half = self.new_channels // 2
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, half, self.new_channels - half))

    def forward(self, x: Tensor) -> Tensor:
        """
        :param x: ``[N, in_channels, H, W]``
        :return: ``[N, channels, H / stride, W / stride]``
        """
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return F.relu(out + self.shortcut(x))


class CifarResNet(nn.Module):
    """
    The ResNet for CIFAR of He et al. (CVPR 2016), with functional ReLUs and sizes read from the tensors, as most
    published models have them.

    :param blocks: blocks in each of the three stages: 3 for ResNet-20, 5 for ResNet-32
    :param num_classes: outputs
    """

    def __init__(self, blocks: int, num_classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = self._stage(16, 16, blocks, stride=1)
        self.layer2 = self._stage(16, 32, blocks, stride=2)
        self.layer3 = self._stage(32, 64, blocks, stride=2)
        self.linear = nn.Linear(64, num_classes)

    @staticmethod
    def _stage(in_channels: int, channels: int, blocks: int, stride: int) -> nn.Sequential:
        first = BasicBlock(in_channels, channels, stride)
        return nn.Sequential(first, *(BasicBlock(channels, channels, 1) for _ in range(blocks - 1)))

    def forward(self, x: Tensor) -> Tensor:
        """
        :param x: images ``[N, 3, H, W]``
        :return: logits ``[N, classes]``
        """
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.layer3(self.layer2(self.layer1(out)))
        out = F.avg_pool2d(out, out.size(3))
        return self.linear(out.view(out.size(0), -1))


CIFAR_MODELS = {"resnet20": 3, "resnet32": 5}


def cifar_resnet(name: str) -> CifarResNet:
    """
    :param name: a key of :data:`CIFAR_MODELS`
    :return: the untrained network
    """
    return CifarResNet(CIFAR_MODELS[name])
