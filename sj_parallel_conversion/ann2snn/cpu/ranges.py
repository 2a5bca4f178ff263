"""Ranges of what convolutions read that no neuron has made: the network's input, and currents of other layers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, fx, nn

from ..data.batches import CalibrationData
from ..data.inputs import named_forward, placement
from ..graph.operations import module_of
from ..network.spiking_network import SpikingNetwork
from .int8_layers import MAX_LEVEL
from .prepack import is_plain_convolution


def byte_codes(snn: SpikingNetwork, dataloader: Iterable[Any], exact: set[fx.Node]) -> dict[str, Tensor]:
    """
    :param snn: in packed execution
    :param dataloader: calibration data
    :param exact: nodes of its graph that have levels
    :return: for each 2-D convolution that reads floats, by name, the ``[scale, zero_point]`` of 255 steps from the
        smallest to the largest float of the data
    :raises DataError: if the data cannot be run
    """
    device, dtype = placement(snn, None)
    data = CalibrationData(dataloader, _Model(snn), device, dtype, snn.config.show_progress)
    observer = _Observer(snn.net, {node for node in snn.net.graph.nodes if _reads_floats(snn.net, node, exact)})
    with torch.no_grad(), data.naming_batches():
        for batch in data.batches("ranges"):
            observer.run(*batch.tensors, enable_io_processing=False)
    return {name: _code(*pair) for name, pair in observer.ranges.items()}


class _Model(nn.Module):
    """
    Says how the ANN of a network is called.

    :param snn: the network
    """

    def __init__(self, snn: SpikingNetwork) -> None:
        super().__init__()
        self.forward = named_forward(snn.signature.form)


def _reads_floats(net: fx.GraphModule, node: fx.Node, exact: set[fx.Node]) -> bool:
    module = module_of(net, node)
    if not (isinstance(module, nn.Conv2d) and is_plain_convolution(module)):
        return False
    return node.args[0] not in exact and _sees_its_input(module)


def _sees_its_input(conv: nn.Conv2d) -> bool:
    """
    Whether no output is of padding alone. There oneDNN's kernels for bytes, of which another than 0 stands for 0, read
    memory that is not theirs.
    """
    if isinstance(conv.padding, str):  # "valid", or "same", which is less than the kernel
        return True
    forms = zip(conv.kernel_size, conv.dilation, conv.padding, strict=True)
    return all(padding <= dilation * (size - 1) for size, dilation, padding in forms)


class _Observer(fx.Interpreter):
    """
    Runs a network and notes the smallest and the largest value that some of its nodes read.

    :param net: the network
    :param nodes: calls of modules
    """

    def __init__(self, net: fx.GraphModule, nodes: set[fx.Node]) -> None:
        super().__init__(net)
        self.extra_traceback = False
        self.ranges: dict[str, tuple[float, float]] = {}
        self._nodes = nodes

    def run_node(self, node: fx.Node) -> object:
        """As in the base class."""
        if node in self._nodes:
            x = self.fetch_args_kwargs_from_env(node)[0][0]
            low, high = self.ranges.get(node.target, (0.0, 0.0))
            least, most = torch.aminmax(x)
            self.ranges[node.target] = min(low, least.item()), max(high, most.item())
        return super().run_node(node)


def _code(low: float, high: float) -> Tensor:
    """The code in which 0, which padding adds, is exact."""
    scale = (high - low) / MAX_LEVEL
    if scale < torch.finfo(torch.float32).tiny:  # all are 0, or so small that the steps in 1 are no float
        scale = 1.0
    return torch.tensor([scale, round(-low / scale)], dtype=torch.float32)
