"""Passes after which every layer but the first receives spikes."""

from __future__ import annotations

from torch import fx, nn

from ...neuron.activations import DAQCFS, QCFS, ClipReLU, SpikingIdentity
from .activations import is_site
from .operations import is_kept, is_max_pool
from .passes import free_name
from .signals import ANALOGUE, INPUT, LAYER, SPIKES, Signals, operation_name

# Monotone, for sure: not every activation of the registry is.
_RISING = (nn.ReLU, nn.Hardtanh, QCFS, DAQCFS, ClipReLU)


def pool_after_activation(model: fx.GraphModule) -> None:
    """
    Max pooling of a layer's graded output becomes pooling of spikes: where an activation rises, ``act(pool(x))`` is
    ``pool(act(x))``.

    :param model: a captured network with shapes; changed in place
    """
    for node in list(model.graph.nodes):
        if not (is_site(model, node) and isinstance(model.get_submodule(node.target), _RISING)):
            continue
        pool = node.args[0]
        while is_max_pool(model, pool) and len(pool.users) == 1 and not is_kept(pool):
            _swap(pool, node)
            pool = node.args[0]
    model.graph.lint()
    model.recompile()


def _swap(pool: fx.Node, activation: fx.Node) -> None:
    source = pool.args[0]
    activation.replace_all_uses_with(pool)
    activation.replace_input_with(pool, source)
    pool.replace_input_with(source, activation)
    pool.prepend(activation)
    activation.meta["shape"] = source.meta["shape"]


def give_layers_spikes(model: fx.GraphModule, graded_input: bool = False) -> None:
    """
    Where a layer would receive something else than spikes, or than the network's input, put a
    :class:`SpikingIdentity` in front of it: after a linear bottleneck, a normalisation, a softmax or a product, say.
    One serves all layers that receive the same value.

    :param model: a captured network with shapes; changed in place
    :param graded_input: whether the network's input is a graded value that must become spikes too
    """
    signals = _signals(model, graded_input)
    graded = [n for layer in signals.nodes(LAYER) for n in _graded_inputs(signals, layer)]
    for value in dict.fromkeys(graded):
        _place_identity(model, signals, value)
    model.recompile()


def analogue_operations(model: fx.GraphModule, graded_input: bool = False) -> list[str]:
    """The operations that no neuron and no synapse stands for, ``name (type)``, in the order in which they run."""
    signals = _signals(model, graded_input)
    return [f"{operation_name(node)} ({signals.operation(node)})" for node in signals.nodes(ANALOGUE)]


def _signals(model: fx.GraphModule, graded_input: bool) -> Signals:
    return Signals(model, {node.target for node in model.graph.nodes if is_site(model, node)}, graded_input)


def _graded_inputs(signals: Signals, layer: fx.Node) -> list[fx.Node]:
    return [n for n in layer.all_input_nodes if signals.sources[n] and signals.sources[n] not in ({INPUT}, {SPIKES})]


def _place_identity(model: fx.GraphModule, signals: Signals, value: fx.Node) -> None:
    readers = [user for user in value.users if signals.kinds[user] == LAYER]
    name = free_name(model, f"{operation_name(readers[0])}_input".replace(".", "_"))
    model.add_submodule(name, SpikingIdentity())
    with model.graph.inserting_after(value):
        identity = model.graph.call_module(name, (value,))
    identity.meta["shape"] = value.meta["shape"]
    for reader in readers:
        reader.replace_input_with(value, identity)
