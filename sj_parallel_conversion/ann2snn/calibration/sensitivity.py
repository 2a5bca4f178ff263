"""Which places of the activations decide a classifier's answer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor, fx

from ... import ranks
from ...user_warnings import warn
from ..data.cache import Spool, Spooled
from ..data.inputs import Batch
from ..placement.sites import Site

_DANGER = 0.2  # of the mean margin of the first images: margins below that are in danger
_FEW = 3  # of fewer images none can be told to be in danger
_FLOOR = 0.1  # of the mean: no place is worth nothing
_IMAGES = 16  # with gradients at once, which is what limits the memory


class Sensitivity:
    r"""
    Weights for the squared errors of activations, without labels: where an error moves the margin m of the ANN's two
    largest outputs, and where m is small, it may change the class. With the mean over the channels c,

    .. math:: w = \sqrt{\mathrm{mean}_c\, (\partial m / \partial y)^2 / (1 + m / \tau)}

    where tau is a fifth of the mean margin (of the squares with a floor; the root, because squares would leave the fits
    few samples). One pass of the ANN forward and one backward.

    :param ann: the reference
    :param sites: the activations
    :param parts: divides a batch into parts of so many samples, if that can be done
    :param spool: keeps the weights; ``None``: with the usual limit
    """

    def __init__(
        self,
        ann: fx.GraphModule,
        sites: list[Site],
        parts: Callable[[Batch, int], Iterable[Batch]] = Batch.split,
        spool: Spool | None = None,
    ) -> None:
        self.ann, self.sites, self._parts = ann, sites, parts
        spool = Spool() if spool is None else spool
        self._margins: list[Tensor] = []  # until they are enough
        self._temperature: Tensor | None = None
        self._squares: dict[str, Spooled[Tensor]] | None = {site.name: spool.keep([]) for site in sites}

    def watch(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """
        :param batches: inputs of the network
        :return: the same; when the last has been taken, :meth:`weights` are complete
        """
        for x in batches:
            if self._squares is not None:
                self._add([self._of_part(part) for part in self._parts(x, _IMAGES)])
            yield x

    def weights(self, name: str) -> list[Tensor] | None:
        """
        :param name: of a site
        :return: batch by batch, weights that broadcast to its activation, with a mean of about 1. ``None``: all alike,
            because the ANN is no classifier, that is, gives something else than one tensor ``[N, classes]``, or
            because there is no gradient
        """
        if self._squares is None:
            return None
        squares = list(self._squares[name])
        count = ranks.total_of(sum(map(Tensor.numel, squares)))[0]
        floor = _FLOOR * _total(squares) / count
        if not 0 < floor < torch.inf:
            return None
        roots = [(square + floor).sqrt() for square in squares]
        mean = _total(roots) / count
        return [root / mean for root in roots]

    def _of_part(self, x: Batch) -> dict[str, Tensor] | None:
        try:
            return _squared_gradients(self.ann, self.sites, x, self._weighted)
        except torch.cuda.OutOfMemoryError:
            raise
        except RuntimeError as error:
            reason = str(error).partition("\n")[0]
            warn(f"calibration='weights' lets all errors count alike, because the ANN has no gradient: {reason}")
            return None

    def _weighted(self, margin: Tensor) -> Tensor:
        """Margins ``[N]``, of which the small ones have the larger gradients."""
        fixed = margin.detach()
        if self._temperature is None:
            self._margins.append(ranks.gather(fixed))
            enough = sum(map(len, self._margins)) >= _FEW
            if not enough and ranks.count() == 1:
                return margin
            # all ranks meet at their first images alone: later they may have different numbers of them
            self._temperature = _DANGER * torch.cat(self._margins).mean() * enough
        return margin / (1 + fixed / self._temperature).sqrt() if self._temperature > 0 else margin

    def _add(self, parts: list[dict[str, Tensor] | None]) -> None:
        found = [part for part in parts if part is not None]
        if self._squares is None or len(found) < len(parts):
            self._squares = None
            return
        for name, squares in self._squares.items():
            squares.append(torch.cat([part[name] for part in found]))


def _total(values: list[Tensor]) -> Tensor:
    """The sum of all of them, those of the other ranks too."""
    return ranks.total(sum((x.sum() for x in values), start=torch.zeros((), device="cpu", dtype=torch.float32)))


@torch.enable_grad()
def _squared_gradients(
    ann: fx.GraphModule, sites: list[Site], x: Batch, weighted: Callable[[Tensor], Tensor]
) -> dict[str, Tensor] | None:
    activations: dict[str, Tensor] = {}

    def keep(name: str, output: Tensor) -> Tensor:
        activations[name] = output if output.requires_grad else output.detach().requires_grad_()
        return activations[name]

    hooks = [
        ann.get_submodule(site.name).register_forward_hook(
            lambda module, args, output, name=site.name: keep(name, output)
        )
        for site in sites
    ]
    try:
        outputs = ann(*x.clone().tensors)  # autograd takes no tensor made in inference mode
    finally:
        for hook in hooks:
            hook.remove()
    output = outputs[0] if len(outputs) == 1 else None
    if not isinstance(output, Tensor) or output.dim() != 2 or output.shape[1] < 2 or not output.requires_grad:
        return None
    margin = output.topk(2, 1).values.diff(dim=1).neg().squeeze(1)
    values = [activations[site.name] for site in sites]
    gradients = torch.autograd.grad(weighted(margin).sum(), values, allow_unused=True, materialize_grads=True)
    return {site.name: _by_place(site, gradient) for site, gradient in zip(sites, gradients, strict=True)}


def _by_place(site: Site, gradient: Tensor) -> Tensor:
    """Mean square over the channels, or over all of an image where the channels are unknown."""
    dims = tuple(range(1, gradient.dim())) if site.channel_dim is None else (site.channel_dim,)
    return gradient.float().square().mean(dims, keepdim=True)
