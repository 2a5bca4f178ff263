"""Pictures of coloured shapes, with masks and boxes: an image set that the examples make themselves."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

CLASSES = ("background", "disc", "square", "diamond")
_COLOURS = torch.tensor([[0.9, 0.2, 0.2], [0.2, 0.8, 0.3], [0.25, 0.35, 0.9]])
_MEAN, _STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])  # of ImageNet


@dataclass(frozen=True)
class Scene:
    """
    One picture.

    :param image: ``[3, H, W]`` in 0..1
    :param mask: the class of each pixel ``[H, W]``
    :param boxes: ``[n, 4]``: x1, y1, x2, y2
    :param labels: the class of each box ``[n]``
    """

    image: Tensor
    mask: Tensor
    boxes: Tensor
    labels: Tensor

    @property
    def normalised(self) -> Tensor:
        """The image as torchvision's segmentation models take it; its detection models normalise by themselves."""
        return (self.image - _MEAN.view(3, 1, 1)) / _STD.view(3, 1, 1)

    @property
    def target(self) -> dict[str, Tensor]:
        """What torchvision's detection models are trained with."""
        return {"boxes": self.boxes, "labels": self.labels}


def scenes(count: int, size: int, seed: int) -> list[Scene]:
    """
    :param count: how many pictures
    :param size: their height and width
    :param seed: the same seed gives the same pictures
    :return: the pictures, with one to three shapes each
    """
    generator = torch.Generator().manual_seed(seed)
    return [_scene(size, generator) for _ in range(count)]


def _scene(size: int, generator: torch.Generator) -> Scene:
    image = 0.5 + 0.08 * torch.randn(3, size, size, generator=generator)
    mask = torch.zeros(size, size, dtype=torch.long)
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    boxes, labels = [], []
    for _ in range(int(torch.randint(1, 4, (), generator=generator))):
        r = int(torch.randint(size // 10, size // 4, (), generator=generator))
        cx, cy = (int(torch.randint(r, size - r, (), generator=generator)) for _ in range(2))
        label = int(torch.randint(1, len(CLASSES), (), generator=generator))
        dx, dy = (x - cx).abs(), (y - cy).abs()
        inside = (dx**2 + dy**2 <= r**2, (dx <= r) & (dy <= r), dx + dy <= r)[label - 1]
        image = torch.where(inside, _COLOURS[label - 1].view(3, 1, 1) + 0.1 * image, image)
        mask[inside] = label
        boxes.append([cx - r, cy - r, cx + r, cy + r])
        labels.append(label)
    return Scene(image.clamp(0, 1), mask, torch.tensor(boxes, dtype=torch.float32), torch.tensor(labels))
