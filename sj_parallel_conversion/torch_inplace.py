"""In-place operators of a captured graph become plain ones, where a value has one name."""

from __future__ import annotations

import torch
from torch import fx
from torch._ops import HigherOrderOperator, OpOverload


def made_functional(graph: fx.Graph) -> bool:
    """
    Turn in-place operations into plain ones, where that is simple: the value has no second name, such as a view.

    :return: ``False`` if there are others, or regions with settings of their own; the graph is as it was then
    """
    order = {node: i for i, node in enumerate(graph.nodes)}
    changes = []
    for node in graph.nodes:
        if isinstance(node.target, HigherOrderOperator) or node.op == "get_attr":
            return False
        if not (isinstance(node.target, OpOverload) and node.target._schema.is_mutable):
            continue
        plain = _out_of_place(node.target)
        if plain is None or not _has_one_name(node.args[0]):
            return False
        changes.append((node, plain))
    for node, plain in changes:
        changed = node.args[0]
        node.target = plain
        for user in [user for user in changed.users if order[user] > order[node]]:
            user.replace_input_with(changed, node)
    return True


def read_what_is_copied(graph: fx.Graph) -> None:
    """Where a value was written over another one, what read the second reads the first. Nothing writes any more."""
    for node in graph.nodes:
        if node.target is torch.ops.aten.copy.default and _form(node) == _form(node.args[1]):
            for user in [user for user in node.users if user.op != "output"]:  # outputs are known by their names
                user.replace_input_with(node, node.args[1])


def _form(node: fx.Node) -> tuple[list[object], torch.dtype]:
    """The shape and the dtype of a value. Sizes are compared as expressions: that two are equal is never assumed."""
    value = node.meta["val"]
    return [s.node.expr if isinstance(s, torch.SymInt) else s for s in value.shape], value.dtype


def _out_of_place(target: OpOverload) -> OpOverload | None:
    """The operator that returns what ``target`` writes to its first argument."""
    name = target._schema.name.rpartition("::")[2]
    arguments = target._schema.arguments
    written = [a.name for a in arguments if a.alias_info is not None and a.alias_info.is_write]
    packet = getattr(torch.ops.aten, name[:-1], None) if name.endswith("_") and target.namespace == "aten" else None
    if packet is None or written != [arguments[0].name]:
        return None
    plain = getattr(packet, target._overloadname, None)
    same = plain is not None and [a.name for a in plain._schema.arguments] == [a.name for a in arguments]
    return plain if same else None


def _has_one_name(value: object) -> bool:
    """Whether nothing shares memory with the value, which an operation made."""
    if not isinstance(value, fx.Node) or value.op != "call_function" or _may_share_memory(value):
        return False
    return not any(_may_share_memory(user) for user in value.users)


def _may_share_memory(node: fx.Node) -> bool:
    """Whether the result of a node may be its input, or a part of it, under another name."""
    if not isinstance(node.target, OpOverload):
        return node.op != "output"  # an element of a list, say
    schema = node.target._schema
    if schema.is_mutable:  # a plain operation is put in its place
        return False
    return any(r.alias_info is not None for r in schema.returns) or schema.name.partition("::")[2] in _MAY_BE_VIEWS


# Composed operators that return their input, or a view of it, where nothing has to be done.
_MAY_BE_VIEWS = {
    "reshape", "contiguous", "to", "flatten", "type_as", "float", "double", "half", "dropout", "feature_dropout",
    "alpha_dropout", "pad", "reshape_as", "expand_as", "view_as", "unflatten", "squeeze", "movedim", "swapaxes",
    "moveaxis", "chunk", "tensor_split", "narrow", "unsafe_chunk", "atleast_1d", "atleast_2d", "atleast_3d",
    "broadcast_to", "ravel", "numpy_T", "matrix_H", "adjoint", "mT", "conj", "resolve_conj", "resolve_neg", "real",
}  # fmt: skip


