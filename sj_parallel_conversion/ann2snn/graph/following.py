"""Tensors that a model makes, and casts: they follow the device and the dtype of the network, which may move."""

from __future__ import annotations

import torch
from torch import Tensor

REFERENCE = "_reference"  # the name of a buffer without elements that is where the network is


def construct(reference: Tensor, name: str, floating: bool, *args: object, **kwargs: object) -> Tensor:
    """
    :param reference: where the network is
    :param name: of an ATen operator that makes a tensor, as ``"arange.start"``
    :param floating: whether the tensor has the network's dtype, and not one of its own
    :param args: its arguments
    :param kwargs: the same, by name
    :return: the tensor
    """
    packet, _, overload = name.partition(".")
    operator = getattr(getattr(torch.ops.aten, packet), overload or "default")
    dtype = {"dtype": reference.dtype} if floating else {}
    return operator(*args, **kwargs | {"device": reference.device} | dtype)


def cast(reference: Tensor, x: Tensor) -> Tensor:
    """``x`` in the network's dtype."""
    return x.to(reference.dtype)
