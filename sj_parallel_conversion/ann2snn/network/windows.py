"""Streams that are longer than a window: a packed pass for each window, and one readout of all."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import ConfigError, DataError
from ...functional import pack_frames
from ...parameters import as_integer
from ...torch_compat import tree_map
from .parts import PartlySpikingNetwork
from .spiking_network import SpikingNetwork
from .time_axis import mean_over_time

_SPIKEPACK = 2.0  # the base of its weights


def run_windows(
    net: nn.Module | Callable[[Tensor], object],
    x_seq: Tensor,
    time_steps: int | None = None,
    frame_tau: float | None = None,
    readout: Callable[[Tensor], object] | None = None,
    at_once: bool = True,
) -> object:
    """
    Run a network on a stream of several windows. Each window is one pass, and knows nothing of the others.

    :param net: a converted network, which packs frames as it was converted to; or anything that takes ``[N, ...]``,
        such as a network that was trained with :class:`~sj_parallel_conversion.SpikingActivation`
    :param x_seq: ``[windows * T, N, ...]``
    :param time_steps: T, the length of a window. ``None``: that of the converted network
    :param frame_tau: base of the frames' weights within a window, as in :func:`~sj_parallel_conversion.pack_frames`.
        ``None``: that of the converted network, 2 for any other
    :param readout: makes the answer of each output's tensor ``[windows, N, ...]``. ``None``: their mean, which holds no
        order of the windows
    :param at_once: whether all windows are one batch, of ``windows * N`` samples. ``False``: one after another, in the
        memory of one
    :return: the answer: ``[N, ...]`` without a ``readout`` of yours, or the network's dict or tuple of such
    :raises ConfigError: if T is not given or is not that of the network, or ``frame_tau`` is out of range
    :raises DataError: if ``x_seq`` is not made of whole windows
    """
    own = net.time_steps if isinstance(net, (SpikingNetwork, PartlySpikingNetwork)) else None
    steps = _given_or_own("time_steps", time_steps, own)
    T = as_integer(steps)
    if T is None or T < 1:
        raise ConfigError(f"run_windows: give time_steps, the length of a window, an integer >= 1, got {steps!r}")
    if not isinstance(x_seq, Tensor) or x_seq.dim() < 2 or not len(x_seq) or len(x_seq) % T:
        got = f"shape {list(x_seq.shape)}" if isinstance(x_seq, Tensor) else type(x_seq).__name__
        raise DataError(
            f"run_windows needs a tensor [windows * T, N, ...] of whole windows of T={T} frames, got {got}. Leave "
            "frames out at the end, or add frames without events"
        )
    call = _on_one_window(net, frame_tau)
    windows = x_seq.unflatten(0, (-1, T))
    if at_once:  # [windows, T, N, ...] -> [T, windows * N, ...]
        y = tree_map(partial(_split, len(windows)), call(windows.transpose(0, 1).flatten(1, 2)))
    else:
        y = tree_map(_stacked, *map(call, windows))
    return tree_map(lambda v: (readout or mean_over_time)(v) if isinstance(v, Tensor) else v, y)


def _on_one_window(net: Callable[[Tensor], object], tau: float | None) -> Callable[[Tensor], object]:
    """What makes an answer ``[N, ...]`` of a window ``[T, N, ...]``, in either step mode."""
    if isinstance(net, SpikingNetwork):
        _given_or_own("frame_tau", tau, net.config.frame_tau)
        return lambda window: net.decode(net.multi_step_forward(window))
    return lambda window: net(pack_frames(window, _SPIKEPACK if tau is None else tau))


def _given_or_own(name: str, given: object, own: object) -> object:
    if given is not None and own is not None and given != own:
        raise ConfigError(f"run_windows: {name}={given!r}, and the network was converted with {own!r}. Leave it out")
    return own if given is None else given


def _split(windows: int, y: object) -> object:
    return y.unflatten(0, (windows, -1)) if isinstance(y, Tensor) else y


def _stacked(*values: Any) -> object:
    return torch.stack(values) if isinstance(values[0], Tensor) else values[0]
