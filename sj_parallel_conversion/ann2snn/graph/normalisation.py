"""A function of a group of values, such as a softmax, as a module."""

from __future__ import annotations

from torch import Tensor, nn

from .plain import PlainGraph, called


class Normalisation(nn.Module):
    """
    Arithmetic in which each result depends on a group of values: on a row of scores, or on the features of a token.

    :param body: its graph
    """

    def __init__(self, body: PlainGraph) -> None:
        super().__init__()
        self.body = body

    def forward(self, *values: Tensor) -> Tensor:
        """:param values: ``[N, ...]``. :return: ``[N, ...]``"""
        return self.body(*values)

    def extra_repr(self) -> str:
        """What ``print`` shows of it."""
        return called(self.body)
