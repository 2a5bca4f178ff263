"""SpikingJelly's own conversion, on either release and at its best: what the examples compare with."""

from __future__ import annotations

import copy
import io
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import redirect_stderr
from functools import partial

import torch
from spikingjelly.activation_based import ann2snn, functional
from torch import Tensor, nn
from tqdm import tqdm

from .evaluation import Evaluation, Result

MODES: list[str | float] = ["Max", "99.9%", "99%", 1 / 2, 1 / 3]

Convert = Callable[[nn.Module], nn.Module]


def settings(loader: Iterable) -> Iterator[tuple[str, Convert]]:
    """
    :param loader: calibration data
    :return: name and converter of every setting that the installed release has
    """
    for mode in MODES:
        name = mode if isinstance(mode, str) else f"{mode:.2f}"
        if not hasattr(ann2snn, "RateCodingRecipe"):  # 0.0.0.0.14
            yield name, ann2snn.Converter(loader, mode=mode)
            continue
        recipe = partial(ann2snn.RateCodingRecipe, loader, mode=mode)
        yield name, ann2snn.Converter(recipe=recipe()).convert
        # Thresholds by channel and membranes that start half full: what 2.0.0 offers for few time-steps.
        for pool, pool_name in ((False, ""), (True, ", pool first")):
            few_steps = recipe(channel_wise=True, half_threshold=True, pre_spike_maxpool=pool)
            yield f"{name}, by channel{pool_name}", ann2snn.Converter(recipe=few_steps).convert


def rate_coded(snn: nn.Module, time_steps: int, x: Tensor) -> Tensor:
    """
    The evaluation loop of SpikingJelly's tutorials.

    :param snn: converted network
    :param time_steps: T
    :param x: images ``[N, ...]``
    :return: logits ``[N, classes]``, summed over time
    """
    functional.reset_net(snn)
    out = snn(x)
    for _ in range(time_steps - 1):
        out = out + snn(x)
    return out


def rate_coded_multi_step(snn: nn.Module, time_steps: int, x: Tensor) -> Tensor:
    """
    The same in one call.

    :param snn: converted network in step mode "m"
    :param time_steps: T
    :param x: images ``[N, ...]``
    :return: logits ``[N, classes]``, summed over time
    """
    functional.reset_net(snn)
    return snn(x.unsqueeze(0).repeat(time_steps, *[1] * x.dim())).sum(0)


def best_rate_coding(
    ann: nn.Module, loader: Iterable, evaluation: Evaluation, time_steps: Sequence[int]
) -> list[Result]:
    """
    :param ann: trained network, left as it is
    :param loader: calibration data
    :param evaluation: test data
    :param time_steps: the T to try
    :return: for each T the result of the setting with the highest accuracy
    """
    results = []
    # Two settings differ in max pooling alone.
    pools = any(isinstance(module, nn.MaxPool2d) for module in ann.modules())
    tried = [(name, convert) for name, convert in settings(loader) if pools or "pool first" not in name]
    for name, convert in tqdm(tried, desc="SpikingJelly rate coding"):
        with redirect_stderr(io.StringIO()):  # the converters' own bars, which would break up this one
            snn = convert(copy.deepcopy(ann)).eval()  # 0.0.0.0.14 shares storage with what it converts
        for T, (classes, speed) in zip(time_steps, _over_time(snn, time_steps, evaluation.images), strict=True):
            results.append(evaluation.result("SpikingJelly rate coding", T, classes, speed, name))
    return [max((r for r in results if r.time_steps == T), key=lambda r: (r.accuracy, r.agreement)) for T in time_steps]


@torch.no_grad()
def _over_time(snn: nn.Module, time_steps: Sequence[int], images: Tensor) -> Iterator[tuple[Tensor, float]]:
    """The classes at each of the T, and the images per second up to it: a longer window begins with a shorter one."""
    functional.reset_net(snn)
    start, out = time.perf_counter(), torch.zeros(())
    for t in range(1, max(time_steps) + 1):
        out = out + snn(images)
        if t in time_steps:
            yield out.argmax(1), len(images) / (time.perf_counter() - start)
    functional.reset_net(snn)
