"""Passes after which every layer but the first receives spikes."""

from __future__ import annotations

from collections.abc import Iterable

from torch import fx, nn

from ...neuron.activations import DAQCFS, QCFS, ClipReLU, SpikingIdentity
from .activations import is_site
from .attention import split_softmaxes, write_out_attention
from .groups import find_normalisations
from .operations import SCALE, is_affine, is_kept, is_max_pool, module_of, operation, operator_of
from .passes import free_name
from .shapes import layer_axis
from .signals import ANALOGUE, INPUT, LAYER, SPIKES, Signals, operation_name
from .units import SPLITTING

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
    Put a :class:`SpikingIdentity` in front of each layer and each product of two changing values that would receive a
    graded value: after a linear bottleneck or a normalisation, say. The network's input is no such value. One serves
    all that receive the same value. Attention is written out first, and normalisations become modules.

    :param model: a captured network with shapes; changed in place
    :param graded_input: whether the network's input is a graded value that must become spikes too
    """
    write_out_attention(model)
    find_normalisations(model)
    split_softmaxes(model)
    signals = _signals(model, graded_input)
    graded = [n for layer in signals.nodes(LAYER) for n in _graded(signals, layer.all_input_nodes)]
    for value in dict.fromkeys(graded):
        readers = [user for user in value.users if signals.kinds[user] == LAYER]
        _place_identity(model, value, readers, f"{operation_name(readers[0])}_input")
    products = set(signals.factors)
    graded = [n for pair in signals.factors.values() for n in _graded(signals, pair)]
    for value in dict.fromkeys(_origin(model, n, products) for n in graded):
        readers = [user for user in value.users if _leads_to(model, user, products)]
        _place_identity(model, value, readers, f"{operation_name(value)}_output")
    model.graph.lint()
    model.recompile()


def analogue_operations(model: fx.GraphModule, graded_input: bool = False) -> list[str]:
    """The operations that no neuron and no synapse stands for, ``name (type)``, in the order in which they run."""
    signals = _signals(model, graded_input)
    return [f"{operation_name(node)} ({signals.operation(node)})" for node in signals.nodes(ANALOGUE)]


def _signals(model: fx.GraphModule, graded_input: bool) -> Signals:
    return Signals(model, {node.target for node in model.graph.nodes if is_site(model, node)}, graded_input)


def _graded(signals: Signals, values: Iterable[fx.Node]) -> list[fx.Node]:
    floats = (n for n in values if n.meta.get("is_floating_point", True))
    return [n for n in floats if signals.sources[n] and signals.sources[n] not in ({INPUT}, {SPIKES})]


def _origin(model: fx.GraphModule, value: fx.Node, products: set[fx.Node]) -> fx.Node:
    """
    Where the values of a factor are made. There a channel is a channel, and one neuron serves queries, keys and values.
    On the way from there values may only be moved and scaled. Nothing else may read them than factors of products.
    """
    origin = value
    while (source := _source(model, value)) is not None:
        if not all(_leads_to(model, user, products) for user in source.users):
            break
        value = source
        if "shape" in value.meta:  # and not a tuple of parts
            origin = value
    return origin


def _leads_to(model: fx.GraphModule, node: fx.Node, products: set[fx.Node]) -> bool:
    if node in products:
        return True
    passes = _source(model, node) is not None
    return passes and bool(node.users) and all(_leads_to(model, user, products) for user in node.users)


def _source(model: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """The one value that ``node`` moves, or multiplies by a constant; ``None`` if it does something else."""
    tensors = [n for n in node.all_input_nodes if "shape" in n.meta or operator_of(n) in SPLITTING]
    row = operation(model, node)
    is_scale = row.kind == SCALE and node.op == "call_function" and is_affine(model, node)
    return tensors[0] if len(tensors) == 1 and (row.moves or is_scale) and not is_kept(node) else None


def _place_identity(model: fx.GraphModule, value: fx.Node, readers: list[fx.Node], name: str) -> None:
    found = [user for user in value.users if type(module_of(model, user)) is SpikingIdentity]
    if found:
        identity = found[0]
    else:
        name = free_name(model, name.replace(".", "_"))
        model.add_submodule(name, SpikingIdentity())
        with model.graph.inserting_after(value):
            identity = model.graph.call_module(name, (value,))
        identity.meta["shape"] = value.meta["shape"]
        axes = {layer_axis(model, reader) for reader in readers}
        identity.meta["channel_axis"] = axes.pop() if len(axes) == 1 else None
    for reader in readers:
        reader.replace_input_with(value, identity)
