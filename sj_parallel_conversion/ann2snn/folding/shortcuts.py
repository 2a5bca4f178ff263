"""Folding around membrane shortcuts, whose values are read by two neurons and an addition, in the ANN's units."""

from __future__ import annotations

from torch import Tensor, fx

from ...neuron import SpikingNode
from ...parameters import exact
from ..graph.folded import ResidualAdd, ToLevels
from ..graph.operations import is_addition, is_negation
from ..graph.passes import free_name
from .neurons import is_foldable, line, neuron_of


def fold_shortcuts(model: fx.GraphModule, names: set[str]) -> None:
    """
    Make one multiply-add of what the two neurons of a membrane shortcut do to the value that they share before they
    round it, and one of the addition behind them, in place.

    :param model: a converted network in plain form with recorded shapes
    :param names: the :class:`SpikingActivation` modules that may be folded
    """
    for negative in [node for node in model.graph.nodes if is_negation(node)]:
        value, silent = negative.args[0], _neuron_of_shortcut(model, negative, names)
        if silent is None:
            continue
        read_levels(model, silent, value, -1)
        model.graph.erase_node(negative)
        for site in [user for user in value.users if _is_foldable(model, user, names)]:
            read_levels(model, site, value, 1)
        _fold_sum(model, silent, value)


def _neuron_of_shortcut(model: fx.GraphModule, negative: fx.Node, names: set[str]) -> fx.Node | None:
    """The neuron that reads ``negative`` alone and is added to the value of which it is, if that is all it does."""
    if len(negative.users) != 1:
        return None
    (silent,) = negative.users
    if not _is_foldable(model, silent, names) or len(silent.users) != 1:
        return None
    (addition,) = silent.users
    return silent if is_addition(addition) and addition.args == (negative.args[0], silent) else None


def _is_foldable(model: fx.GraphModule, node: fx.Node, names: set[str]) -> bool:
    # an activation of the neuron's own works on values in the units of the ANN
    return is_foldable(node, names) and neuron_of(model, node).activation is None


def read_levels(model: fx.GraphModule, site: fx.Node, value: fx.Node, sign: int) -> None:
    """
    Let one multiply-add in front of a neuron do all that the neuron does before it rounds.

    :param model: a converted network with shapes, changed in place
    :param site: the neuron
    :param value: what it reads
    :param sign: -1 if it reads the negative of ``value``
    """
    neuron = neuron_of(model, site)
    gain, offset = line(neuron)
    levels = ToLevels(_along(neuron, sign * gain, value), _along(neuron, offset, value))
    name = free_name(model, f"{site.name}_levels")
    model.add_submodule(name, levels)
    with model.graph.inserting_before(site):
        site.args = (model.graph.call_module(name, (value,)),)
    site.args[0].meta["shape"] = value.meta["shape"]
    neuron.folded_input = True


def _fold_sum(model: fx.GraphModule, silent: fx.Node, value: fx.Node) -> None:
    (addition,) = silent.users
    neuron = neuron_of(model, silent)
    neuron.folded_output = True
    name = free_name(model, f"{addition.name}_residual")
    model.add_submodule(name, ResidualAdd(_along(neuron, exact(neuron.unit), value), None))
    addition.op, addition.target, addition.args = "call_module", name, (value, silent)


def _along(neuron: SpikingNode, parameter: Tensor, value: fx.Node) -> Tensor:
    dims = len(value.meta["shape"])
    if parameter.dim():
        parameter = parameter.view(-1, *[1] * (dims - neuron.channel_dim % dims - 1))
    return parameter.to(neuron.v_threshold).contiguous()
