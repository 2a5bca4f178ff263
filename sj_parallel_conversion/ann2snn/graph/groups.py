"""
Normalisations by structure: pointwise operations, sums and means that make one value of one other of the same shape are
one normalisation, however they are written (RMSNorm, L2, a softmax by hand).
"""

from __future__ import annotations

from torch import fx

from .activations import REDUCTIONS, between, is_pointwise_operation
from .formula import captured_body
from .normalisation import Normalisation
from .operations import is_affine, is_kept, operator_of
from .passes import free_name
from .signals import operation_name

_SHAPES = {"expand", "expand_as", "unsqueeze", "squeeze", "clone", "contiguous"}
_ENDS = {"mul", "div"}


def find_normalisations(model: fx.GraphModule) -> None:
    """
    Put a :class:`Normalisation` in the place of each normalisation that is written out, in place. Scales and offsets
    behind it stay outside.

    :param model: a captured network with shapes
    """
    sources: dict[fx.Node, list[fx.Node]] = {}
    for node in model.graph.nodes:
        sources[node] = _possible_sources(node, sources)
    taken: set[fx.Node] = set()
    for node in reversed(list(model.graph.nodes)):
        if operator_of(node) in _ENDS and len(node.all_input_nodes) == 2 and node not in taken:
            for source in reversed(sources[node]):
                nodes = _operations(model, source, node)
                if nodes and not taken & set(nodes):
                    taken |= set(nodes)
                    _place(model, source, nodes)
                    break
    model.graph.eliminate_dead_code()
    model.graph.lint()
    model.recompile()


def _possible_sources(node: fx.Node, sources: dict[fx.Node, list[fx.Node]]) -> list[fx.Node]:
    """The values of which ``node`` is a function, each alone; the nearest first."""
    inputs = [n for n in node.all_input_nodes if "shape" in n.meta]
    if not inputs or not (is_pointwise_operation(node) or operator_of(node) in REDUCTIONS | _SHAPES):
        return []
    first, *others = ([n, *sources[n]] for n in inputs)
    return [n for n in first if all(n in other for other in others)]


def _operations(model: fx.GraphModule, source: fx.Node, result: fx.Node) -> tuple[fx.Node, ...]:
    """The operations between the two, in order, if they are one normalisation; otherwise none."""
    if source.meta["shape"] != result.meta.get("shape") or not source.meta.get("is_floating_point"):
        return ()
    nodes = between(source, result, set(model.graph.nodes))
    inner = set(nodes)
    escapes = any(user not in inner for node in nodes if node is not result for user in node.users)
    known = {source, *nodes}
    foreign = any(n not in known for node in nodes for n in node.all_input_nodes)
    reduces = any(operator_of(node) in REDUCTIONS for node in nodes)
    if escapes or foreign or not reduces or any(map(is_kept, nodes)):
        return ()
    return nodes if not all(is_affine(model, node) for node in nodes) else ()


def _place(model: fx.GraphModule, source: fx.Node, nodes: tuple[fx.Node, ...]) -> None:
    result = nodes[-1]
    name = free_name(model, f"{operation_name(result)}_norm".replace(".", "_"))
    model.add_submodule(name, Normalisation(captured_body(model, (source,), nodes)))
    with model.graph.inserting_after(result):
        call = model.graph.call_module(name, (source,))
    call.meta.update(result.meta)
    result.replace_all_uses_with(call, delete_user_cb=lambda user: user is not call)
