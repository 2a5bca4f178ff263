"""Layers that are linear in their input, one for each way in which a weight meets it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn

# makers of layers that are linear in their input, and the shape of an input without the batch axis
LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (partial(nn.Linear, 5, 4), (5,)),
    "linear on tokens": (partial(nn.Linear, 5, 4), (3, 5)),
    "1-D": (partial(nn.Conv1d, 2, 4, 3, stride=2, padding=1), (2, 9)),
    "2-D": (partial(nn.Conv2d, 2, 4, 3), (2, 7, 6)),
    "strided, padded, dilated": (
        partial(nn.Conv2d, 2, 4, (3, 2), stride=(2, 1), padding=(2, 1), dilation=(1, 2)),
        (2, 8, 9),
    ),
    "groups": (partial(nn.Conv2d, 4, 6, 3, groups=2, padding=1), (4, 6, 6)),
    "depthwise": (partial(nn.Conv2d, 3, 3, 3, groups=3, bias=False), (3, 6, 6)),
    "same": (partial(nn.Conv2d, 2, 3, (4, 3), padding="same"), (2, 6, 6)),
    "valid": (partial(nn.Conv2d, 2, 4, 3, padding="valid"), (2, 7, 6)),
    "reflect": (partial(nn.Conv2d, 2, 3, 3, padding=1, padding_mode="reflect"), (2, 6, 6)),
    "3-D": (partial(nn.Conv3d, 2, 3, 2, stride=(1, 2, 1)), (2, 4, 5, 4)),
}
