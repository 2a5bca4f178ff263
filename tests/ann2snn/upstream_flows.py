"""
The ann2snn examples of both SpikingJelly releases (``cnn_mnist.py``, ``resnet18_cifar10.py``): their networks and their
evaluation loops, with random images and weights in the place of the downloads.

Run as a script it prints what SpikingJelly's own conversions give, as hashes; arguments: modules to import, in order.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import sys
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset


def mnist_cnn() -> nn.Module:
    """The network of ``cnn_mnist.py``."""
    layers = []
    for in_channels in (1, 32, 32):
        layers += [nn.Conv2d(in_channels, 32, 3, 1), nn.BatchNorm2d(32), nn.ReLU(), nn.AvgPool2d(2, 2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(32, 10))


class BasicBlock(nn.Module):
    """Two convolutions and a shortcut that is added in place, as the example has it."""

    def __init__(self, in_planes: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(in_planes, planes, 3, stride, 1, bias=False), nn.BatchNorm2d(planes)
        self.conv2, self.bn2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False), nn.BatchNorm2d(planes)
        self.shortcut = nn.Sequential()
        if stride != 1:
            self.shortcut = nn.Sequential(nn.Conv2d(in_planes, planes, 1, stride, bias=False), nn.BatchNorm2d(planes))
        self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu1(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += self.shortcut(x)
        return self.relu2(out)


def cifar10_resnet18(width: int = 8) -> nn.Module:
    """The network of ``resnet18_cifar10.py``, with fewer channels (64 there)."""
    layers = [nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    planes = width
    for stage in range(4):
        for stride in (min(stage, 1) + 1, 1):
            in_planes, planes = planes, width * 2**stage
            layers.append(BasicBlock(in_planes, planes, stride))
    return nn.Sequential(*layers, nn.AvgPool2d(4), nn.Flatten(), nn.Linear(planes, 10))


EXAMPLES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "cnn_mnist": (mnist_cnn, (1, 28, 28)),
    "resnet18_cifar10": (cifar10_resnet18, (3, 32, 32)),
}


def example(name: str) -> tuple[nn.Module, DataLoader, DataLoader]:
    """The network of an example, as if trained; its calibration loader and its test loader."""
    make, shape = EXAMPLES[name]
    torch.manual_seed(0)
    model = make()
    # Large areas, as in photographs: white noise would give the same mean, hence the same output, for each image.
    images = F.interpolate(torch.rand(26, shape[0], 4, 4), shape[1:], mode="bilinear")
    labels = torch.randint(10, (26,))
    for _ in range(20):
        model(images[:16])  # in training mode, so that BatchNorm learns its statistics
    calibration = DataLoader(TensorDataset(images[:16], labels[:16]), batch_size=8, shuffle=True)
    return model.eval(), calibration, DataLoader(TensorDataset(images[16:], labels[16:]), batch_size=4)


def reset_loop(net: nn.Module, img: Tensor, T: int) -> Iterator[Tensor]:
    """``val`` of both examples in 0.0.0.0.14."""
    for m in net.modules():
        if hasattr(m, "reset"):
            m.reset()
    for t in range(T):
        if t == 0:
            out = net(img)
        else:
            out += net(img)
        yield out


def cnn_mnist_loop(net: nn.Module, img: Tensor, T: int) -> Iterator[Tensor]:
    """``val`` of ``cnn_mnist.py`` in 2.0.0."""
    from spikingjelly.activation_based import functional

    functional.reset_net(net)
    out = None
    for _ in range(T):
        step = net(img)
        out = step if out is None else out + step
        yield out


def resnet18_loop(net: nn.Module, img: Tensor, T: int) -> Iterator[Tensor]:
    """``val`` of ``resnet18_cifar10.py`` in 2.0.0."""
    from spikingjelly.activation_based import functional

    functional.reset_net(net)
    out = net(img)
    for _ in range(1, T):
        out += net(img)
    yield out


LOOPS = (reset_loop, cnn_mnist_loop, resnet18_loop)


def val(net: nn.Module, data_loader: DataLoader, T: int, loop: Callable = reset_loop) -> Tensor:
    """The summed outputs of the whole test set ``[N, classes]``, of which the examples print the accuracy."""
    net.eval().to("cpu")
    with torch.no_grad():
        return torch.cat([[out.clone() for out in loop(net, img, T)][-1] for img, _ in data_loader])


def own_conversions(model: nn.Module, calibration: DataLoader) -> Iterator[tuple[str, nn.Module]]:
    """The converter lines of the examples of the installed release."""
    from spikingjelly.activation_based import ann2snn

    if not hasattr(ann2snn, "RateCodingRecipe"):
        for mode in ("max", "Max", "99.9%", 1.0 / 2):
            yield str(mode), ann2snn.Converter(mode=mode, dataloader=calibration)(model)
        return
    for mode in ("max", "99.9%", 1.0 / 2):
        recipe = ann2snn.RateCodingRecipe(dataloader=calibration, mode=mode)
        yield str(mode), ann2snn.Converter(recipe=recipe, device="cpu").convert(model)
    recipe = ann2snn.LocalThresholdBalancingRecipe(dataloader=calibration)
    yield "local", ann2snn.FXConverter(recipe=recipe, device="cpu").convert(model)


def own_results(T: int = 4) -> dict[str, str]:
    """For each example and each of SpikingJelly's own conversions a hash of all outputs."""
    results = {}
    for name in EXAMPLES:
        model, calibration, test = example(name)
        for conversion, snn in own_conversions(model, calibration):
            outputs = val(snn, test, T)
            assert outputs.abs().sum() > 0
            results[f"{name} {conversion}"] = hashlib.sha256(outputs.numpy().tobytes()).hexdigest()
    return results


if __name__ == "__main__":
    torch.set_num_threads(1)  # sums in a fixed order
    for module in sys.argv[1:]:
        importlib.import_module(module)
    print(json.dumps(own_results()))
