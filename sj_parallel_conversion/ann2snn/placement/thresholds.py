"""Observers: from the activations of the calibration data to the largest magnitude of each channel's code."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

from ... import ranks
from ...errors import ConversionError, DataError
from ...functional.quantise import full_precision
from ...neuron.activations import DAQCFS
from ...parameters import exact
from .. import graph
from ..config import percentile_of
from ..data.outliers import is_usual, sizes
from ..data.selection import Data
from .sites import Site

# Bins are 128 to an octave, so that an outlier of any size leaves resolution for the rest. The sixteen highest bits of
# a float32 number them: its exponent and the first seven bits of its fraction.
_OCTAVES = 20
BINS = 128 * _OCTAVES
_LOWER_BITS = 16
_LOWEST = (0x3F800000 >> _LOWER_BITS) - BINS  # 0x3F800000 are the bits of 1
_BLOCK = 2**18  # values at once, so that what is computed of them stays in the processor's cache
_CANDIDATES = torch.logspace(-4.5, 0, 150)  # clipping points, relative to the largest activation


@torch.no_grad()
def observe(
    model: fx.GraphModule,
    sites: list[Site],
    data: Data,
    threshold: str,
    max_level: float,
    filled: float = 1.0,
    robust: bool = False,
) -> dict[str, Tensor]:
    """
    Choose for each site the largest value that its spikes shall stand for. For an output with known bounds it is these.

    :param model: the ANN
    :param sites: its activations
    :param data: calibration data
    :param threshold: ``"max"``, a percentile, or ``"mse"``: the least squared error of the quantised activation
    :param max_level: the number of levels above zero that the code has
    :param filled: the share of them that the chosen value fills
    :param robust: whether images that are outliers do not count for ``"max"``
    :return: a positive tensor ``[C]`` (``[]`` where channels are unknown) for each site's name
    :raises DataError: if an activation is NaN or infinite; the message names the layer
    :raises ConversionError: if an activation leaves its bounds
    """
    maxima, images = _maxima(model, sites, data)
    chosen = {s.name: torch.full_like(maxima[s.name], s.known_range) for s in sites if s.known_range is not None}
    others = [site for site in sites if site.name not in chosen]
    if robust:
        maxima |= _usual_maxima(model, others, data, maxima, images)
    highest = max(1, round(max_level * filled))
    scale = max_level / highest
    if threshold == "max":
        return {site.name: _alive(maxima[site.name]) * scale for site in others} | chosen
    percentile = percentile_of(threshold)
    usual = {s.name: is_usual(images[s.name]) for s in others if percentile is None and _may_have_outliers(s)}
    counts = _histograms(model, others, data, maxima, usual)
    pick = _least_squares(highest) if percentile is None else _quantile(percentile / 100)
    v_max = {name: maxima[name] * pick(counts[name]).to(maxima[name].device).view_as(maxima[name]) for name in counts}
    return {name: _alive(value) * scale for name, value in v_max.items()} | chosen


def _alive(v_max: Tensor) -> Tensor:
    # A channel that was never active gets the threshold of a typical one: any would do for the calibration data.
    alive = v_max > 0
    typical = v_max[alive].mean() if alive.any() else torch.ones_like(v_max.flatten()[0])
    return torch.where(alive, v_max, typical)


def _may_have_outliers(site: Site) -> bool:
    # no value within known bounds is broken, and only where images lie along the first axis they can be told apart
    return max(-site.bounds[0], site.bounds[1]) == math.inf and site.channel_dim != 0


def _run(
    model: fx.GraphModule, sites: list[Site], data: Data, what: str, see: Callable[[Site, Tensor], None]
) -> None:
    """Run all batches through ``model`` and show ``see`` the output of each site."""
    hooks = [
        model.get_submodule(site.name).register_forward_hook(lambda module, args, output, site=site: see(site, output))
        for site in sites
    ]
    try:
        for x in data.batches(what):
            with data.naming_batches():
                model(*x.tensors)
    finally:
        for hook in hooks:
            hook.remove()


def _maxima(
    model: fx.GraphModule, sites: list[Site], data: Data
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """For each site the largest magnitude of each channel ``[C]`` or ``[]``, and of each image ``[images]``."""
    maxima: dict[str, Tensor] = {}
    images: dict[str, list[Tensor]] = {site.name: [] for site in sites}

    def see(site: Site, output: Tensor) -> None:
        low, high, size = _extremes(site, output)
        v_max = torch.maximum(high, -low)
        if not torch.isfinite(v_max).all():
            raise DataError(f"layer {site.name!r} gives NaN or infinite activations on the calibration data")
        _check_bounds(site, low.min(), high.max())
        maxima[site.name] = torch.maximum(maxima[site.name], v_max) if site.name in maxima else v_max
        images[site.name].append(size)

    _run(model, sites, data, "largest activations", see)
    maxima = {name: ranks.largest(value) for name, value in maxima.items()}
    of_layer = {site.name: maxima[site.name][0] for site in sites if site.channel_dim is None}
    return maxima | of_layer, {name: torch.cat(found) for name, found in images.items()}


def _usual_maxima(
    model: fx.GraphModule,
    sites: list[Site],
    data: Data,
    highest: dict[str, Tensor],
    images: dict[str, Tensor],
) -> dict[str, Tensor]:
    """For each site with outliers among the ``images``, the largest magnitude of each channel in the others."""
    usual = {site.name: is_usual(images[site.name]) for site in sites if _may_have_outliers(site)}
    broken = [site for site in sites if site.name in usual and ranks.any_of(not usual[site.name].all())]
    maxima: dict[str, Any] = {}
    seen = dict.fromkeys(usual, 0)

    def see(site: Site, output: Tensor) -> None:
        mask = usual[site.name][seen[site.name] :][: len(output)]
        seen[site.name] += len(output)
        if mask.any():
            low, high, _ = _extremes(site, output[mask])
            v_max = torch.maximum(high, -low)
            maxima[site.name] = torch.maximum(maxima[site.name], v_max) if site.name in maxima else v_max

    if broken:
        _run(model, broken, data, "largest activations", see)
    for site in broken:  # a rank may have no usual image
        none = torch.zeros_like(highest[site.name].reshape(-1))
        maxima[site.name] = ranks.largest(maxima.get(site.name, none))
    channels = {site.name: site.channel_dim for site in broken}
    return {name: value if channels[name] is not None else value[0] for name, value in maxima.items()}


def _extremes(site: Site, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """
    The lowest and the highest value of each channel, ``[C]``; C = 1 where the channels are unknown. And the largest
    magnitude of each image.
    """
    # not aminmax(dim=-1), which takes 25 times as long on a CPU
    if site.channel_dim is None:
        return y.amin().unsqueeze(0), y.amax().unsqueeze(0), sizes(y)
    # along the memory first: bringing the channels to the front would copy everything
    channel = site.channel_dim % y.dim()
    z = y.unsqueeze(-1).flatten(channel + 1)
    high = z.amax(-1)
    low = torch.zeros_like(high) if graph.is_rectifier(site.activation) else z.amin(-1)
    if channel == 0:
        return low, high, sizes(y)
    size = full_precision(torch.maximum(high, -low).flatten(1).amax(1))
    return low.flatten(0, channel - 1).amin(0), high.flatten(0, channel - 1).amax(0), size


def _check_bounds(site: Site, low: Tensor, high: Tensor) -> None:
    lower, upper = site.bounds
    if isinstance(site.activation, DAQCFS):  # a trained amplitude may have any sign
        return
    slack = torch.finfo(low.dtype).eps ** 0.5
    if low < lower - slack or high > upper * (1 + slack) + slack:
        raise ConversionError(
            f"layer {site.name!r} ({type(site.activation).__name__}) gives values from {float(low):.3g} to "
            f"{float(high):.3g}, outside of the bounds {lower:g} to {upper:g} that it is registered with"
        )


def _histograms(
    model: fx.GraphModule,
    sites: list[Site],
    data: Data,
    maxima: dict[str, Tensor],
    usual: dict[str, Tensor],
) -> dict[str, Tensor]:
    """
    Counts ``[C, BINS + 1]`` of activations by the logarithm of their share of the channel's maximum, of the ``usual``
    images ``[images]`` where a site has an entry there.
    """
    counts: dict[str, Tensor] = {}
    seen: dict[str, int] = dict.fromkeys(usual, 0)

    def see(site: Site, output: Tensor) -> None:
        """Add the activations of one batch to the counts of ``site``."""
        if site.name in usual:
            start = seen[site.name]
            seen[site.name] += len(output)
            mask = usual[site.name][start : seen[site.name]]
            output = output if mask.all() else output[mask]
        new = exact(_count(output, maxima[site.name], site.channel_dim))
        counts[site.name] = counts[site.name] + new if site.name in counts else new

    _run(model, sites, data, "activation histograms", see)
    return {name: ranks.total(found) for name, found in counts.items()}


def _count(y: Tensor, v_max: Tensor, channel_dim: int | None) -> Tensor:
    """The counts ``[C, BINS + 1]`` of values whose channels have the largest magnitudes ``v_max`` ``[C]`` or ``[]``."""
    shape = [1] * y.dim()
    if channel_dim is not None:
        shape[channel_dim] = -1
    v_max, length = v_max.float().reshape(shape), v_max.numel() * (BINS + 1)
    per_share = torch.where(v_max > 0, 1 / v_max, 1.0).nan_to_num_(posinf=torch.finfo(torch.float32).max)
    rows = torch.arange(0, length, BINS + 1, dtype=torch.int32, device=y.device).view(shape)
    counts = torch.zeros(length, dtype=torch.int64, device=y.device)
    images = max(1, max(_BLOCK, length) * len(y) // y.numel())
    for part in y.split(images):
        bits = (part.float() * per_share).abs_().view(torch.int32)
        # rounded up, so that a bin's values are at most its edge
        bins = bits.add_((1 << _LOWER_BITS) - 1).bitwise_right_shift_(_LOWER_BITS).sub_(_LOWEST).clamp_(0, BINS)
        counts = counts + torch.bincount(bins.add_(rows).flatten(), minlength=length)
    return counts.view(-1, BINS + 1)


def _edges(like: Tensor) -> Tensor:
    """Upper ends of the bins, relative to the maximum. The first bin holds zeros and what is as good as zero."""
    edges = (torch.arange(BINS + 1, dtype=torch.int32) + _LOWEST << _LOWER_BITS).view(torch.float32).to(like)
    edges[0] = 0
    return edges


def _quantile(q: float) -> Callable[[Tensor], Tensor]:
    def pick(counts: Tensor) -> Tensor:
        cumulated = counts.cumsum(1)
        first = (cumulated < q * cumulated[:, -1:]).sum(1)
        # A channel that is active on fewer inputs than the percentile leaves out keeps its maximum.
        return torch.where(first > 0, _edges(counts)[first], 1.0).to(torch.get_default_dtype())

    return pick


def _least_squares(max_level: int) -> Callable[[Tensor], Tensor]:
    def pick(counts: Tensor) -> Tensor:
        clip = _CANDIDATES.to(counts).unsqueeze(1)
        values = _edges(counts)
        quantised = (values * max_level / clip + 0.5).floor().clamp(max=max_level) * clip / max_level
        errors = counts @ (quantised - values).square().T
        return clip[errors.argmin(1), 0].to(torch.get_default_dtype())

    return pick
