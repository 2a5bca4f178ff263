"""Handwritten digits that swing to and fro before an event camera, and networks that tell digit and movement."""

from __future__ import annotations

from collections.abc import Callable

import torch
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import sj_parallel_conversion as sjpc

from .digits import load_data

SACCADES = ((-1, 1), (-1, -1), (-2, 1), (-2, -1))  # the axis of the movement, and where it goes first
REACH = 2  # pixels to each side
CONTRAST = 0.2  # the change of brightness, for a movement of one pixel, that is an event
CLASSES = 10 * len(SACCADES)
FEATURES = 64


def load_saccades(T: int) -> tuple[TensorDataset, Tensor, Tensor]:
    """
    :param T: frames of a movement, a multiple of 4
    :return: training set, test events ``[N, T, 2, 12, 12]`` of zeros and ones (on and off), and test labels ``[N]``,
        ``4 * digit + saccade``. Each digit makes all four movements
    """
    data, images, labels = load_data()
    (train, train_labels), (test, test_labels) = (_all_movements(*d, T) for d in (data.tensors, (images, labels)))
    return TensorDataset(train, train_labels), test, test_labels


def _all_movements(images: Tensor, digits: Tensor, T: int) -> tuple[Tensor, Tensor]:
    events = torch.cat([saccade(images, T, axis, sign) for axis, sign in SACCADES])
    return events, torch.cat([len(SACCADES) * digits + i for i in range(len(SACCADES))])


def saccade(images: Tensor, T: int, axis: int, sign: int) -> Tensor:
    """
    The digit moves :data:`REACH` pixels to one side, as far to the other, and back. Two movements that differ in their
    sign alone consist of the same frames in another order, so that their mean frames are equal.

    :param images: ``[N, 1, 8, 8]``
    :param T: frames, a multiple of 4
    :param axis: of the movement
    :param sign: where it goes first, 1 or -1
    :return: events ``[N, T, 2, 12, 12]`` in uint8
    """
    quarters = torch.arange(T + 1) * 4 / T
    offsets = sign * REACH * torch.where(quarters > 3, quarters - 4, torch.minimum(quarters, 2 - quarters))
    padded = nn.functional.pad(images[:, 0], [REACH] * 4)
    views = torch.stack([_shifted(padded, float(offset), axis) for offset in offsets], 1)
    change = views.diff(dim=1)
    threshold = CONTRAST * min(1, 4 * REACH / T)
    return torch.stack([change > threshold, change < -threshold], 2).to(torch.uint8)


def _shifted(images: Tensor, offset: float, axis: int) -> Tensor:
    whole = int(offset // 1)
    one, other = images.roll(whole, axis), images.roll(whole + 1, axis)
    return one + (other - one) * (offset - whole)


class PackedNetwork(nn.Module):
    """
    A spiking CNN for events. Each window is one pass, in which nothing depends on T.

    :param activation: makes what stands in the place of a ReLU, for windows of so many frames
    :param T: frames
    :param windows: into how many windows they are divided
    :param frame_tau: base of the frames' weights within a window; 1 is the mean frame
    :param ordered: whether the readout is told the windows apart, or averages them
    """

    def __init__(
        self, activation: Callable[[int], nn.Module], T: int, windows: int, frame_tau: float, ordered: bool
    ) -> None:
        super().__init__()
        self.window, self.frame_tau, self.ordered = T // windows, frame_tau, ordered
        self.features = nn.Sequential(*_layers(lambda: activation(self.window)))
        self.head = nn.Linear(FEATURES * windows if ordered else FEATURES, CLASSES)

    def forward(self, events: Tensor) -> Tensor:
        """:param events: ``[N, T, 2, 12, 12]``. :return: logits ``[N, 40]``"""
        readout = self._by_window if self.ordered else lambda y: self.head(y.mean(0))
        return sjpc.run_windows(self.features, events.transpose(0, 1), self.window, self.frame_tau, readout)

    def _by_window(self, features: Tensor) -> Tensor:
        return self.head(features.transpose(0, 1).flatten(1))


class LIFNetwork(nn.Module):
    """The same layers with SpikingJelly's LIF neurons in multi-step mode, and surrogate gradients."""

    def __init__(self) -> None:
        super().__init__()

        def lif() -> nn.Module:
            return neuron.LIFNode(surrogate_function=surrogate.ATan(), detach_reset=True)

        layers = [*_layers(lif), nn.Linear(FEATURES, CLASSES)]
        timeless = (m if isinstance(m, neuron.LIFNode) else layer.SeqToANNContainer(m) for m in layers)
        self.layers = nn.Sequential(*timeless)
        functional.set_step_mode(self, "m")

    def forward(self, events: Tensor) -> Tensor:
        """:param events: ``[N, T, 2, 12, 12]``. :return: logits ``[N, 40]``, the mean over time"""
        functional.reset_net(self)
        return self.layers(events.transpose(0, 1).float()).mean(0)


def _layers(activation: Callable[[], nn.Module]) -> list[nn.Module]:
    return [
        nn.Conv2d(2, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), activation(), nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), activation(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(16 * 3 * 3, FEATURES, bias=False), nn.BatchNorm1d(FEATURES), activation(),
    ]  # fmt: skip


# How frames become an answer: the number of windows, the base of the frames' weights, whether the readout is told the
# windows apart.
FORMS: dict[str, tuple[int, float, bool]] = {
    "mean frame": (1, 1.0, False),
    "weighted frames": (1, 2.0, False),
    "2 windows, averaged": (2, 1.0, False),
    "2 windows, own readout": (2, 1.0, True),
}
LIF = "SpikingJelly's LIF"
