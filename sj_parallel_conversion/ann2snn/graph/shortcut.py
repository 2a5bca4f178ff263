r"""
Membrane shortcuts: identity shortcuts that carry the current of a neuron's membrane, and not its spikes.

Where an addition takes a ReLU's output y = relu(z), the spikes that stand for y bring their rounding error into the
sum, and with it into each sum behind it. Because

.. math:: \mathrm{relu}(z) = z + \mathrm{relu}(-z),

the shortcut can pass on z, which is a sum of weighted spikes and is not rounded anew, and the spikes of a second neuron
for relu(-z), which is silent where z > 0. That pays unless z is negative at most places. Shortcuts between membranes
are those of MS-ResNet (Hu et al., "Advancing Spiking Neural Networks Toward Deep Residual Learning", IEEE TNNLS 2024).
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import fx, nn

from ...hooks import has_hooks
from ...parameters import exact
from ..data.inputs import Batch
from .activations import is_site
from .operations import is_addition, is_kept, is_max_pool, is_negation
from .passes import free_name
from .signals import ANALOGUE, CURRENT, Signals
from .units import moves_values

_NEGATIVE = 2.0  # that many times the energy of the positive part, and the spikes for it round more than they save


class ShortcutReLU(nn.ReLU):
    """The neuron of a membrane shortcut, for relu(-z)."""


def membrane_shortcuts(model: fx.GraphModule, batch: Batch | None = None) -> None:
    """
    Let identity shortcuts from a ReLU to a sum of graded values carry the ReLU's input z and relu(-z), in place. Slices
    and zero padding on the way are part of the shortcut. Where z is finite, outputs stay the same to the bit.

    :param model: a captured network with shapes
    :param batch: a batch; shortcuts around a z whose negative part has more than twice the energy of the positive one
        stay as they are. ``None``: all are changed
    """
    _merge_equal_relus(model)
    signals = Signals(model, {node.target for node in model.graph.nodes if is_site(model, node)})
    found: dict[fx.Node, list[fx.Node]] = {}
    for node in model.graph.nodes:
        if _is_plain_relu(model, node) and not is_max_pool(model, node.args[0]) and _is_graded(signals, node.args[0]):
            found[node] = [user for user in node.users if _leads_to_sums(model, signals, user, node)]
    candidates = {site.args[0] for site in found if found[site]}
    shares = {} if batch is None else _negative_shares(model, candidates, batch)
    for site, shortcuts in found.items():
        if shortcuts and shares.get(site.args[0], 0.0) <= _NEGATIVE:
            _reroute(model, site, shortcuts)
    model.delete_all_unused_submodules()
    model.graph.lint()
    model.recompile()


class _NegativeShares(fx.Interpreter):
    """Energy of the negative part of some values over that of their positive part."""

    def __init__(self, model: fx.GraphModule, values: Collection[fx.Node]) -> None:
        super().__init__(model)
        self.values = values
        self.shares: dict[fx.Node, float] = {}

    def run_node(self, node: fx.Node) -> object:
        """:return: what ``node`` computes"""
        z = super().run_node(node)
        if node in self.values:
            z64 = exact(z)
            total, positive = z64.square().sum(), z64.clamp_min(0).square().sum()
            share = (total - positive) / positive
            # a z that is never positive, or infinite, has no shortcut that could be better
            self.shares[node] = float(share) if share.isfinite() else float("inf")
        return z


@torch.no_grad()
def _negative_shares(model: fx.GraphModule, values: Collection[fx.Node], batch: Batch) -> dict[fx.Node, float]:
    interpreter = _NegativeShares(model, values)
    interpreter.run(*batch.tensors)
    return interpreter.shares


def _merge_equal_relus(model: fx.GraphModule) -> None:
    """One ReLU for all that read the same value: ``relu(z) + f(relu(z))`` has one neuron to start from."""
    first: dict[fx.Node, fx.Node] = {}
    for node in list(model.graph.nodes):
        if _is_plain_relu(model, node) and first.setdefault(node.args[0], node) is not node:
            node.replace_all_uses_with(first[node.args[0]])
            model.graph.erase_node(node)


def _is_graded(signals: Signals, value: fx.Node) -> bool:
    return bool(signals.sources[value] & {CURRENT, ANALOGUE})


def shortcut_site(model: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """
    :param model: the ANN after :func:`membrane_shortcuts`
    :param node: a value of it
    :return: the ReLU that reads ``node``, if all else that does is the membrane shortcut around it
    """
    sites = [user for user in node.users if _is_plain_relu(model, user)]
    negatives = [user for user in node.users if _is_shortcut_negative(model, user)]
    if len(sites) != 1 or len(negatives) != 1:
        return None
    (second,) = negatives[0].users
    sums = set(second.users)
    return sites[0] if set(node.users) == {sites[0], negatives[0], *sums} else None


def _is_plain_relu(model: fx.GraphModule, node: fx.Node) -> bool:
    module = model.get_submodule(node.target) if node.op == "call_module" else None
    return type(module) is nn.ReLU and not has_hooks(module) and not is_kept(node)


def _is_shortcut_negative(model: fx.GraphModule, node: fx.Node) -> bool:
    (user, *others) = node.users or [None]
    if not is_negation(node) or others or user is None or user.op != "call_module":
        return False
    return isinstance(model.get_submodule(user.target), ShortcutReLU)


def _leads_to_sums(model: fx.GraphModule, signals: Signals, user: fx.Node, value: fx.Node) -> bool:
    """Whether what ``user`` makes of spikes ``value`` is added to a graded value, and nothing else is done with it."""
    if is_addition(user) and len(user.all_input_nodes) == 2:
        (other,) = (n for n in user.all_input_nodes if n is not value)
        return _is_graded(signals, other)
    if not moves_values(model, user) or len(user.all_input_nodes) != 1:
        return False
    return bool(user.users) and all(_leads_to_sums(model, signals, u, user) for u in user.users)


def _reroute(model: fx.GraphModule, site: fx.Node, shortcuts: list[fx.Node]) -> None:
    z = site.args[0]
    name = free_name(model, f"{site.target}_shortcut")
    model.add_submodule(name, ShortcutReLU())
    with model.graph.inserting_after(site):
        negative = model.graph.call_function(torch.ops.aten.neg.default, (z,))
    with model.graph.inserting_after(negative):
        silent = model.graph.call_module(name, (negative,))
    with model.graph.inserting_after(silent):
        carried = model.graph.call_function(torch.ops.aten.add.Tensor, (z, silent))
    for node in (negative, silent, carried):
        node.meta = dict(site.meta)
    for user in shortcuts:
        user.replace_input_with(site, carried)
    if not site.users:
        model.graph.erase_node(site)
