"""Counting multiply-accumulates from operators and shapes, the same on every torch and device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...torch_compat import TorchDispatchMode

aten = torch.ops.aten


def _matrix_product(a: Tensor, b: Tensor) -> int:
    return a.numel() * b.shape[-1]


def _added_product(_: Tensor, a: Tensor, b: Tensor) -> int:
    return _matrix_product(a, b)


def _convolution(x: Tensor, weight: Tensor, y: Tensor, transposed: bool) -> int:
    # each value of one side meets the weights of one channel of the other
    return (x if transposed else y).numel() * weight[0].numel()


def _attention(q: Tensor, k: Tensor, v: Tensor) -> int:
    return q[..., 0].numel() * k.shape[-2] * (q.shape[-1] + v.shape[-1])


_PRODUCTS: dict[str, Callable[..., int]] = {
    "mm": _matrix_product, "bmm": _matrix_product, "mv": lambda a, b: a.numel(), "dot": lambda a, b: a.numel(),
    "addmm": _added_product, "baddbmm": _added_product, "_addmm_activation": _added_product,
    "addmv": lambda _, a, b: a.numel(),
}  # fmt: skip
_CONVOLUTIONS = ("convolution", "_convolution", "mkldnn_convolution", "cudnn_convolution", "miopen_convolution")
# one kernel for all steps of a recurrent layer, or for one step of a cell
_RECURRENT = ("mkldnn_rnn_layer", "_cudnn_rnn", "miopen_rnn")


def macs_of(name: str, args: tuple[Any, ...], output: Any) -> int:
    """
    :param name: of an operator of torch, without its namespace and overload, as ``"mm"``
    :param args: what it was called with
    :param output: what it returned
    :return: its multiply-accumulates; 0 for operators that work on each value alone
    """
    if name in _PRODUCTS:
        return _PRODUCTS[name](*args[: 3 if name in ("addmm", "baddbmm", "_addmm_activation", "addmv") else 2])
    if name in _CONVOLUTIONS:
        return _convolution(args[0], args[1], output, len(args) > 6 and args[6] is True)
    if name.startswith("_scaled_dot_product") and "backward" not in name:
        return _attention(*args[:3])
    if name in _RECURRENT:
        x = args[0]
        weights = args[1] if isinstance(args[1], (list, tuple)) else args[1:3]
        return x.shape[0] * x.shape[1] * sum(w.numel() for w in weights if w.dim() > 1)
    return 0


class MacCounter(TorchDispatchMode):
    """Within it, ``total`` grows by the multiply-accumulates of what this thread runs."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(
        self, func: Any, types: tuple[Any, ...], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> object:
        output = func(*args, **(kwargs or {}))
        self.total += macs_of(func._schema.name.rpartition("::")[2], args, output)
        return output
