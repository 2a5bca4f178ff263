"""Shared by the calibrations."""

from __future__ import annotations

from torch import nn

from ...neuron import SpikingNode


def own_amplitude(neuron: SpikingNode) -> nn.Parameter:
    """Give ``neuron`` an amplitude of its own, equal to its threshold until it is set. :return: it"""
    if neuron.amplitude is None:
        neuron.amplitude = nn.Parameter(neuron.v_threshold.detach().clone())
    return neuron.amplitude
