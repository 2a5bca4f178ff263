"""The solution of a ridge regression, from sums over its rows or from the rows themselves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor

from ... import ranks
from ...parameters import exact

_STEPS, _RESIDUAL = 50, 1e-3  # at most so many of the iterative solver, or until so little is left


class Sums:
    """
    What least squares needs to know of rows: their covariance, and that with what they shall explain. Their inputs are
    nearly centred before they are added up in float32: a common mean would leave no digits for what differs.
    """

    def __init__(self) -> None:
        self.rows = 0
        self.squares = torch.zeros((), device="cpu")  # [groups, features, features]
        self.sums = torch.zeros((), device="cpu")  # [groups, features, 1]
        self.explained = torch.zeros((), device="cpu")  # [groups, features, channels]
        self.errors = torch.zeros((), device="cpu")  # [groups, 1, channels]
        self.weight = torch.zeros((), device="cpu")

    def add(self, x: Tensor, error: Tensor, root: Tensor) -> None:
        """
        :param x: inputs ``[groups, rows, features]``
        :param error: what they shall explain, ``[groups, rows, channels]``
        :param root: the input of the bias, ``[rows, 1]``
        """
        if not len(root):
            return
        across = exact(x.transpose(1, 2) @ torch.cat([error, root.expand(len(x), -1, 1)], 2))
        self.squares = self.squares + exact(x.transpose(1, 2) @ x)
        self.explained, self.sums = self.explained + across[..., :-1], self.sums + across[..., -1:]
        self.errors = self.errors + exact(root.T @ error)
        self.weight = self.weight + exact(root).square().sum()
        self.rows += len(root)

    def of_all_ranks(self, other: Self) -> Self:
        """
        :param other: with the same shapes, which this one lacks if it has no rows
        :return: the sums over all ranks
        """
        if ranks.count() == 1:
            return self
        every = type(self)()
        for name in ("squares", "sums", "explained", "errors", "weight"):
            setattr(every, name, ranks.total(getattr(self, name) if self.rows else getattr(other, name) * 0))
        every.rows = int(ranks.total_of(self.rows)[0])
        return every

    def __add__(self, other: Self) -> Self:
        both = type(self)()
        for name in vars(both):
            setattr(both, name, getattr(self, name) + getattr(other, name))
        return both

    def solve(self, ridge: float, centre: Tensor, kept: Tensor | None = None) -> Tensor | None:
        """
        :param ridge: penalty, relative to the mean square of the inputs; the bias has none
        :param centre: what was subtracted from them, ``[groups, 1, features]``
        :param kept: which weights may change, ``[groups, features, channels]``; ``None``: all
        :return: ``[groups, features + 1, channels]``, or ``None`` if there is no finite solution
        """
        weight = self.weight.clamp_min(1e-30)
        mean = self.sums / weight
        covariance = self.squares - self.sums @ mean.transpose(1, 2)
        squares = self.squares.diagonal(dim1=1, dim2=2).unsqueeze(2)
        covariance.diagonal(dim1=1, dim2=2).add_(_penalty(ridge, squares, self.sums, weight, centre))
        explained = self.explained - mean @ self.errors
        if kept is None:
            factor, failed = torch.linalg.cholesky_ex(covariance)
            slope = torch.cholesky_solve(explained, factor).where(failed.view(-1, 1, 1) == 0, torch.nan)
        else:
            diagonal = covariance.diagonal(dim1=1, dim2=2).unsqueeze(2)
            slope = _solve_kept(covariance.__matmul__, diagonal, explained, kept)
        return _change(centre, slope, self.errors / weight - mean.transpose(1, 2) @ slope, kept)


class Rows(Sums):
    """
    The rows themselves, where they are fewer than the features: the same solution, by way of the products of rows with
    rows, in memory that grows with the features and not with their square.
    """

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[tuple[Tensor, ...]] = []
        self._products: Tensor | None = None

    def add(self, x: Tensor, error: Tensor, root: Tensor) -> None:
        """As :meth:`Sums.add`."""
        if len(root):
            # a copy, because a view would keep the rows of the other side in memory
            self.parts.append((x.clone(), error.clone(), root.expand(len(x), -1, 1)))
            self.rows += len(root)

    def of_all_ranks(self, other: Self) -> Self:
        """As :meth:`Sums.of_all_ranks`, with the rows of all ranks."""
        if ranks.count() == 1:
            return self
        every = type(self)()
        parts = self.parts or [tuple(x[:, :0] for x in other.parts[0])]
        joined = (torch.cat(each, 1).transpose(0, 1) for each in zip(*parts, strict=True))
        every.parts = [tuple(ranks.gather(x).transpose(0, 1) for x in joined)]
        every.rows = every.parts[0][0].shape[1]
        return every

    def __add__(self, other: Self) -> Self:
        both = type(self)()
        both.parts, both.rows = self.parts + other.parts, self.rows + other.rows
        return both

    def solve(self, ridge: float, centre: Tensor, kept: Tensor | None = None) -> Tensor | None:
        """As :meth:`Sums.solve`."""
        x, error, root = (torch.cat(parts, 1) for parts in zip(*self.parts, strict=True))
        weight = exact(root).square().sum(1, keepdim=True).clamp_min(1e-30)
        sums, errors = (exact(root.transpose(1, 2) @ y) for y in (x, error))
        mean = sums / weight
        squares = exact(x.square().sum(1)).unsqueeze(2)
        penalty = _penalty(ridge, squares, sums.transpose(1, 2), weight, centre)
        x = x - root * _on(x, mean)
        error = exact(error) - exact(root) * (errors / weight)
        if kept is None:
            slope = x.transpose(1, 2) @ _on(x, self._dual(x, error, penalty))
        else:
            penalty, diagonal = penalty.unsqueeze(1), (exact(x.square().sum(1)) + penalty).unsqueeze(2)
            explained = exact(x.transpose(1, 2) @ _on(x, error))

            def product(v: Tensor) -> Tensor:
                return exact(x.transpose(1, 2) @ (x @ _on(x, v))) + penalty * v

            slope = _solve_kept(product, diagonal, explained, kept)
        return _change(x, slope, errors / weight - mean @ exact(slope), kept)

    def _dual(self, x: Tensor, error: Tensor, penalty: Tensor) -> Tensor:
        if self._products is None:
            self._products = exact(x @ x.transpose(1, 2))
        products = self._products.clone()
        products.diagonal(dim1=1, dim2=2).add_(penalty)
        factor, failed = torch.linalg.cholesky_ex(products)
        return torch.cholesky_solve(error, factor).where(failed.view(-1, 1, 1) == 0, torch.nan)


def _solve_kept(product: Callable[[Tensor], Tensor], diagonal: Tensor, explained: Tensor, kept: Tensor) -> Tensor:
    """
    Conjugate gradients on the weights that are ``kept``: each channel keeps others, so that there is no factorisation
    for all of them.

    :param product: of the covariance with ``[groups, features, channels]``
    :param diagonal: of the covariance, ``[groups, features, 1]``
    :param explained: the right side, ``[groups, features, channels]``
    :param kept: the same shape
    :return: the solution, 0 where not kept
    """
    kept = kept.to(explained.device)
    residual = explained * kept
    solution, direction = torch.zeros_like(residual), residual / diagonal
    size = (residual * direction).sum(1, keepdim=True)
    enough = _RESIDUAL**2 * size
    for _ in range(_STEPS):
        moved = product(direction) * kept
        rate = size / (direction * moved).sum(1, keepdim=True).clamp_min(1e-300)
        solution += rate * direction
        residual -= rate * moved
        scaled = residual / diagonal
        previous, size = size, (residual * scaled).sum(1, keepdim=True)
        if (size <= enough).all():
            break
        direction = scaled + size / previous.clamp_min(1e-300) * direction
    return solution


def _on(like: Tensor, x: Tensor) -> Tensor:
    """``x`` in float32, on the device of ``like``."""
    return x.float().to(like.device)


def _change(like: Tensor, slope: Tensor, bias: Tensor, kept: Tensor | None) -> Tensor | None:
    """``[groups, features + 1, channels]``, float32, on the device of ``like``, or ``None`` if not finite."""
    change = torch.cat([_on(like, slope), _on(like, bias)], 1)
    if kept is not None:
        change *= kept.any(1, keepdim=True)
    return change if change.isfinite().all() else None


def _penalty(ridge: float, squares: Tensor, sums: Tensor, weight: Tensor, centre: Tensor) -> Tensor:
    """
    What is added to the covariance's diagonal, ``[groups, 1]``: ``ridge`` times the mean square of the inputs, of which
    ``centre`` ``[groups, 1, features]`` was subtracted.
    """
    centre = exact(centre).transpose(1, 2)
    return (ridge + 1e-9) * (squares + (2 * sums + weight * centre) * centre).mean(1) + 1e-12
