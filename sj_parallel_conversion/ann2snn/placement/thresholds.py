"""Observers: from the activations of the calibration data to the largest magnitude of each channel's code."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, fx

from ...errors import ConversionError, DataError
from ...neuron.activations import DAQCFS
from ...parameters import exact
from ..config import percentile_of
from ..data.batches import CalibrationData
from ..data.outliers import without_outliers
from ..graph import bounds
from .sites import Site

BINS = 2048
_OCTAVES = 20  # bins are logarithmic, so that an outlier of any size leaves resolution for the rest
_CANDIDATES = torch.logspace(-4.5, 0, 150)  # clipping points, relative to the largest activation


@torch.no_grad()
def observe(
    model: fx.GraphModule, sites: list[Site], data: CalibrationData, threshold: str, max_level: int
) -> dict[str, Tensor]:
    """
    Choose for each site the largest value that its spikes shall stand for.

    :param model: the ANN
    :param sites: its activations
    :param data: calibration data
    :param threshold: ``"max"``, a percentile, or ``"mse"``: the least squared error of the quantised activation
    :param max_level: the number of levels above zero that the code has
    :return: a positive tensor ``[C]`` (``[]`` where channels are unknown) for each site's name
    :raises DataError: if an activation is NaN or infinite; the message names the layer
    :raises ConversionError: if an activation leaves its bounds
    """
    maxima = _maxima(model, sites, data)
    if threshold == "max":
        return {name: _alive(v_max) for name, v_max in maxima.items()}
    counts = _histograms(model, sites, data, maxima)
    percentile = percentile_of(threshold)
    pick = _least_squares(max_level) if percentile is None else _quantile(percentile / 100)
    return {name: _alive(v_max * pick(counts[name]).to(v_max.device).view_as(v_max)) for name, v_max in maxima.items()}


def _alive(v_max: Tensor) -> Tensor:
    # A channel that was never active gets the threshold of a typical one: any would do for the calibration data.
    alive = v_max > 0
    typical = v_max[alive].mean() if alive.any() else torch.ones_like(v_max.flatten()[0])
    return torch.where(alive, v_max, typical)


def _run(
    model: fx.GraphModule, sites: list[Site], data: CalibrationData, what: str, see: Callable[[Site, Tensor], None]
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


def _maxima(model: fx.GraphModule, sites: list[Site], data: CalibrationData) -> dict[str, Tensor]:
    maxima: dict[str, Tensor] = {}

    def see(site: Site, output: Tensor) -> None:
        low, high = _extremes(site, output)
        v_max = torch.maximum(high, -low)
        if not torch.isfinite(v_max).all():
            raise DataError(f"layer {site.name!r} gives NaN or infinite activations on the calibration data")
        _check_bounds(site, low.min(), high.max())
        maxima[site.name] = torch.maximum(maxima[site.name], v_max) if site.name in maxima else v_max

    _run(model, sites, data, "largest activations", see)
    return {site.name: maxima[site.name] if site.channel_dim is not None else maxima[site.name][0] for site in sites}


def _extremes(site: Site, y: Tensor) -> tuple[Tensor, Tensor]:
    """The lowest and the highest value of each channel, ``[C]``; C = 1 where the channels are unknown."""
    if site.channel_dim is None:
        low, high = y.aminmax()
        return low.unsqueeze(0), high.unsqueeze(0)
    # along the memory first: bringing the channels to the front would copy everything
    channel = site.channel_dim % y.dim()
    low, high = y.unsqueeze(-1).flatten(channel + 1).aminmax(dim=-1)
    return low.unsqueeze(0).flatten(0, channel).amin(0), high.unsqueeze(0).flatten(0, channel).amax(0)


def _check_bounds(site: Site, low: Tensor, high: Tensor) -> None:
    lower, upper = bounds(site.activation)
    if isinstance(site.activation, DAQCFS):  # a trained amplitude may have any sign
        return
    slack = torch.finfo(low.dtype).eps ** 0.5
    if low < lower - slack or high > upper * (1 + slack) + slack:
        raise ConversionError(
            f"layer {site.name!r} ({type(site.activation).__name__}) gives values from {float(low):.3g} to "
            f"{float(high):.3g}, outside of the bounds {lower:g} to {upper:g} that it is registered with"
        )


def _histograms(
    model: fx.GraphModule, sites: list[Site], data: CalibrationData, maxima: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Counts ``[C, BINS + 1]`` of activations by the logarithm of their share of the channel's maximum."""
    counts: dict[str, Tensor] = {}

    def see(site: Site, output: Tensor) -> None:
        values = site.by_channel(output)
        v_max = maxima[site.name].reshape(-1, 1)
        octaves = (values.abs().float() / v_max.float().clamp_min(1e-30)).log2_().clamp_(min=-_OCTAVES - 1)
        bins = ((octaves / _OCTAVES + 1) * BINS).ceil_().clamp_(0, BINS).long()
        bins += torch.arange(len(bins), device=bins.device).unsqueeze(1) * (BINS + 1)
        new = exact(torch.bincount(bins.flatten(), minlength=len(bins) * (BINS + 1)).view(len(bins), -1))
        counts[site.name] = counts[site.name] + new if site.name in counts else new

    _run(model, sites, data, "activation histograms", see)
    return counts


def _edges(like: Tensor) -> Tensor:
    """Upper ends of the bins, relative to the maximum. The first bin holds zeros and what is as good as zero."""
    edges = 2 ** ((torch.arange(BINS + 1, dtype=like.dtype, device=like.device) / BINS - 1) * _OCTAVES)
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
        counts = without_outliers(counts, values)
        quantised = (values * max_level / clip + 0.5).floor().clamp(max=max_level) * clip / max_level
        errors = counts @ (quantised - values).square().T
        return clip[errors.argmin(1), 0].to(torch.get_default_dtype())

    return pick
