"""
Padding of its own, as models that were trained with TensorFlow have it, becomes a part of the convolution behind it.

A convolution pads both sides alike. Where one side gets more, both get as much. Zeros at the other side of the kernel
then pass over what is too much.
"""

from __future__ import annotations

import torch
from torch import fx, nn

from ..graph.operations import module_of, operator_of

# A kernel with zeros multiplies more. Up to so many inputs for each output, as in depthwise convolutions, that takes
# less time than a copy of the whole input.
_FEW_INPUTS = 4


@torch.no_grad()
def fold_padding(net: fx.GraphModule) -> None:
    """:param net: a converted graph; its zero padding moves into convolutions where these can have it"""
    for node in list(net.graph.nodes):
        widths = _zero_padding(node)
        if widths is None or len(node.users) != 1:
            continue
        (reader,) = node.users
        conv = module_of(net, reader)
        if isinstance(conv, nn.Conv2d) and conv.padding_mode == "zeros" and _pad(conv, widths):
            node.replace_all_uses_with(node.args[0])
            net.graph.erase_node(node)
    net.recompile()


def _zero_padding(node: fx.Node) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """The widths above and below, left and right, if ``node`` adds zeros there and nowhere else."""
    if operator_of(node) not in ("pad", "constant_pad_nd") or len(node.args) < 2:
        return None
    widths, *rest = node.args[1:]
    if any(value not in ("constant", None, 0) for value in (*rest, *node.kwargs.values())):
        return None
    if not 2 <= len(widths) <= 4 or len(widths) % 2 or not all(type(w) is int and w >= 0 for w in widths):
        return None
    left, right, top, bottom = (*widths, 0, 0)[:4]
    return (top, bottom), (left, right)


def _pad(conv: nn.Conv2d, widths: tuple[tuple[int, int], tuple[int, int]]) -> bool:
    """Let ``conv`` pad its input. :return: whether it can"""
    if isinstance(conv.padding, str):  # "same": as much as keeps the size, which is another size then
        return False
    more: list[int] = []  # rows and columns of the kernel, in the order of F.pad
    for (before, after), dilation in zip(widths, conv.dilation, strict=True):
        if (after - before) % dilation:
            return False
        rows = (after - before) // dilation
        more = [max(rows, 0), max(-rows, 0), *more]
    if any(more):
        if conv.weight.shape[1] > _FEW_INPUTS:
            return False
        conv.weight = nn.Parameter(nn.functional.pad(conv.weight, more), conv.weight.requires_grad)
        conv.kernel_size = tuple(conv.weight.shape[2:])
    height, width = conv.padding
    conv.padding = (height + max(widths[0]), width + max(widths[1]))
    return True
