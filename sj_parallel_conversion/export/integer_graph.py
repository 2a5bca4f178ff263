"""The integer form of a network for ONNX: levels are bytes, and layers that read them have int8 weights."""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn

from ..ann2snn.cpu.byte_flow import level_nodes
from ..ann2snn.graph.folded import ResidualAdd
from ..ann2snn.graph.operations import is_addition
from ..ann2snn.graph.plain import put
from ..errors import ConfigError
from ..neuron import SpikingActivation
from .integer_layers import AddShortcut, CutBytes, CutToLevels, IntegerConv, IntegerLinear, RoundedConv, RoundToBytes
from .translate import Observed, Translation, plain, refuse_int8

_STEPS = 255
# Where a shortcut is added to a current in a byte, more than one level in a hundred becomes another. Networks with
# fewer levels than this give other classes then.
_FINE_LEVELS = 127


class IntegerTranslation(Translation):
    """
    As :class:`Translation`, with bytes for levels.

    A linear layer that reads levels has int8 weights. So has a convolution whose result goes to a neuron, at once or
    after a shortcut of levels was added. What a neuron makes of a current is then known for all but a bounded range of
    currents, so that the current fits into a byte without a look at data. With few levels a current that a shortcut is
    added to stays in float32: there the rounding to a byte would show. So do the currents of other convolutions that
    read levels, whose weights are int8 all the same, as in ``to_int8``.

    :param net: as there
    :param observed: as there
    :raises ConfigError: if no layer can have int8 weights
    """

    def __init__(self, net: fx.GraphModule, observed: Observed) -> None:
        super().__init__(net, observed)
        for name, module in net.named_modules():
            refuse_int8(module, name)
        self.levels, layers = level_nodes(net)
        sites = [m.node for m in net.modules() if isinstance(m, SpikingActivation)]
        self.max_level = int(max((n.code.max_level(n.T) for n in sites), default=0))
        self.linear = {node for node in layers if isinstance(net.get_submodule(node.target), nn.Linear)}
        # what follows a convolution: its neuron, and the addition of a shortcut before that, if there is one
        self.followers = {node: found for node in layers if (found := self._followers(node))}
        self.others = {node for node in layers if node not in self.linear and node not in self.followers}
        self._additions = {addition: node for node, (addition, _) in self.followers.items() if addition is not None}
        self._rounding = {neuron: node for node, (_, neuron) in self.followers.items()}
        self._floats: dict[fx.Node, fx.Node] = {}
        if not layers:
            raise ConfigError(
                "export_onnx(integers=True): no layer could have int8 weights. Needed are linear layers or 2-D "
                "convolutions between neurons with levels from 0 to 255: convert a ReLU network with fold=True (the "
                "default) and fewer time_steps (8 at most for weighted codes)"
            )

    def _followers(self, conv: fx.Node) -> tuple[fx.Node | None, fx.Node] | None:
        if conv in self.linear or len(conv.users) != 1:
            return None
        (user,) = conv.users
        if self._is_neuron(user):
            return None, user
        if len(user.users) != 1 or not self._is_neuron(next(iter(user.users))):
            return None
        is_residual = user.op == "call_module" and isinstance(self.net.get_submodule(user.target), ResidualAdd)
        if not (is_residual or is_addition(user)):
            return None
        others = [n for n in user.args if n is not conv]
        if len(others) != 1 or others[0] not in self.levels or (is_residual and user.args[0] is not conv):
            return None
        if is_residual and not _is_of_channels(self.net.get_submodule(user.target).factor):
            return None
        return user, next(iter(user.users))

    def _is_neuron(self, node: fx.Node) -> bool:
        """Whether ``node`` is a neuron that takes units of a level and emits bytes."""
        return node in self.levels and self._is_site(node) and self.net.get_submodule(node.target).node.folded_input

    def _is_site(self, node: fx.Node) -> bool:
        return node.op == "call_module" and isinstance(self.net.get_submodule(node.target), SpikingActivation)

    def value(self, node: fx.Node, reader: fx.Node | None = None) -> object:
        """As in the base class; levels in bytes for what takes such, in floats for others."""
        keeps_bytes = any(reader in readers for readers in (self.linear, self.followers, self.others, self._additions))
        keeps_bytes = keeps_bytes or (reader in self.levels and not self._is_site(reader))
        if node not in self.levels or keeps_bytes:
            return self.known[node]
        if node not in self._floats:
            self._floats[node] = self.graph.call_method("float", (self.known[node],))
        return self._floats[node]

    def translated(self, node: fx.Node) -> object:
        """As in the base class."""
        module = self.net.get_submodule(node.target) if node.op == "call_module" else None
        if node in self.linear:
            assert isinstance(module, nn.Linear)
            return self._put(node, IntegerLinear(module, self.max_level), node.args[0])
        if node in self.followers or node in self.others:
            assert module is not None
            return self._put(node, self._convolution(node, plain(module)), node.args[0])
        if node in self._additions:
            conv = self._additions[node]
            (shortcut,) = (n for n in node.args if n is not conv)
            return self._put(node, AddShortcut(self._factor(conv), self._bytes_of(conv)), conv, shortcut)
        if node not in self.levels or not self._is_site(node):
            return super().translated(node)
        if not self._is_neuron(node):
            return self.graph.call_method("to", (super().translated(node), torch.uint8))
        if node not in self._rounding:
            return self._put(node, CutToLevels(self.max_level), node.args[0])
        steps: list[nn.Module] = [CutBytes(self.max_level)] if self.max_level < _STEPS else []
        if self.followers[self._rounding[node]][0] is not None:
            steps.insert(0, RoundToBytes())
        return self._put(node, nn.Sequential(*steps), node.args[0])

    def _convolution(self, node: fx.Node, conv: nn.Module) -> nn.Module:
        assert isinstance(conv, nn.Conv2d)
        if node in self.others:
            return RoundedConv(conv, self.max_level, less=0.0)
        code = self._bytes_of(node)
        return IntegerConv(conv, self.max_level, *code) if code else RoundedConv(conv, self.max_level, less=0.5)

    def _put(self, node: fx.Node, module: nn.Module, *read: fx.Node) -> fx.Node:
        name = node.target if node.op == "call_module" else node.name
        put(self.root, name, module)
        return self.graph.call_module(name, tuple(self.value(n, node) for n in read))

    def _factor(self, conv: fx.Node) -> Tensor:
        """What the levels of the shortcut after a convolution are multiplied by, ``[C]``."""
        addition, _ = self.followers[conv]
        assert addition is not None
        weight = self.net.get_submodule(conv.target).weight
        module = self.net.get_submodule(addition.target) if addition.op == "call_module" else None
        factor = None if module is None else module.factor
        return weight.new_ones(len(weight)) if factor is None else factor.detach().flatten().expand(len(weight))

    def _bytes_of(self, conv: fx.Node) -> tuple[Tensor, Tensor] | None:
        """
        For the result of a convolution the zero point and the step, ``[C]``. The bytes reach from a current that makes
        level 0 whatever the shortcut adds to one that makes the largest level. ``None`` if it stays in floats.
        """
        weight = self.net.get_submodule(conv.target).weight
        if self.followers[conv][0] is None:
            return weight.new_zeros(len(weight)), weight.new_ones(len(weight))
        if self.max_level < _FINE_LEVELS:
            return None
        added = self._factor(conv) * self.max_level
        low, high = -added.clamp_min(0) - 1, self.max_level + 1 - added.clamp_max(0)
        step = (high - low) / (_STEPS - 1)
        return (-low / step).ceil(), step


def _is_of_channels(factor: Tensor | None) -> bool:
    """Whether a factor of ``[N, C, H, W]`` is one number, or differs by channel alone."""
    return factor is None or factor.numel() == 1 or (factor.dim() >= 3 and factor.shape[-3] == factor.numel())
