"""The nodes of a graph as JSON and back. Names in a file become code of a graph module, so each of them is checked."""

from __future__ import annotations

import keyword
import re
from typing import Any

from torch import fx, nn

from ..ann2snn.graph.following import construct
from ..ann2snn.graph.plain import PlainGraph
from ..errors import FileError
from .operators import check_constructor, decode_function, encode_function
from .values import Record, decode, encode, need, no_more

_KEPT = ("shape", "is_floating_point", "path")  # of what is noted at a node, as in PlainGraph
_LONGEST = 1_000  # characters of a name
_OPS = {"placeholder", "get_attr", "call_function", "call_module", "output"}


def is_identifier(name: object) -> bool:
    """Whether ``name`` can stand in the code of a graph."""
    if not isinstance(name, str) or len(name) > _LONGEST or keyword.iskeyword(name):
        return False
    return re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) is not None


def is_path(name: object) -> bool:
    """Whether ``name`` is the dotted name of a module or tensor, as in ``layer1.0.conv``, and stays one in code."""
    return (
        isinstance(name, str)
        and 0 < len(name) <= _LONGEST
        and all(part.isprintable() and part and not set(part) & set("\"'\\{}") for part in name.split("."))
    )


def encode_nodes(graph: fx.Graph) -> list[Record]:
    """:return: the nodes as JSON. :raises FileError: if there is something in them that no file holds"""
    return [_encode_node(node) for node in graph.nodes]


def _encode_node(node: fx.Node) -> Record:
    def reference(value: object) -> object:
        return {"node": value.name} if isinstance(value, fx.Node) else no_more(value)

    try:
        return {
            "op": node.op,
            "name": node.name,
            "target": encode_function(node.target) if node.op == "call_function" else node.target,
            "args": encode(tuple(node.args), reference),
            "kwargs": encode(dict(node.kwargs), reference),
            "meta": {key: encode(node.meta[key]) for key in _KEPT if key in node.meta},
        }
    except FileError as error:
        where = node.meta.get("path")
        raise FileError(f"operation {node.name!r}{f' in {where!r}' if where else ''}: {error}") from error


def decode_nodes(records: list[Record], root: nn.Module) -> PlainGraph:
    """
    :param records: of :func:`encode_nodes`, from a file that may be damaged
    :param root: holds the modules and tensors that the nodes name
    :return: the graph module
    :raises FileError: if a node is damaged, or does what no graph of this package does
    """
    known: dict[str, fx.Node] = {}
    graph = fx.Graph()
    for record in records:
        name = record["name"]
        need(is_identifier(name) and name not in known, f"the operation {str(name)[:80]!r} has no name of its own")
        try:
            known[name] = _decode_node(graph, record, known)
        except FileError as error:
            raise FileError(f"operation {name!r}: {error}") from error
        need(known[name].name == name, f"the operation {name!r} has a name that Python keeps for itself")
    kinds = [record["op"] for record in records]
    need(kinds.count("output") == 1 and kinds[-1] == "output", "its graph has no end")
    module = PlainGraph(root, graph)
    # what no node reads has not come over, and the rest may have another order
    kept = ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set")
    module.__dict__.update({key: root.__dict__[key] for key in kept})
    module.graph.lint()
    return module


def _decode_node(graph: fx.Graph, record: Record, known: dict[str, fx.Node]) -> fx.Node:
    def reference(kind: str, content: Any) -> fx.Node:
        need(kind == "node" and isinstance(content, str) and content in known, "it reads a value that is not there")
        return known[content]

    op, target = record["op"], record["target"]
    args, kwargs = decode(record["args"], reference), decode(record["kwargs"], reference)
    need(op in _OPS and isinstance(args, tuple) and isinstance(kwargs, dict), "it is damaged")
    need(all(map(is_identifier, kwargs)), "its arguments have names that are none")
    if op == "call_function":
        target = decode_function(target)
        if target is construct:
            need(len(args) > 1, "it is damaged")
            check_constructor(args[1])
    elif op == "placeholder":
        need(is_identifier(target) and not args and not kwargs, "it is an input without a name")
    elif op == "output":
        need(target == "output" and len(args) == 1 and not kwargs, "it is damaged")
    else:
        need(is_path(target), f"{str(target)[:80]!r} is no name of a module")
    node = graph.create_node(op, target, args, kwargs, record["name"])
    node.meta.update(_decode_meta(record["meta"]))
    return node


def _decode_meta(record: Record) -> Record:
    meta = {key: decode(value) for key, value in record.items() if key in _KEPT}
    shape, path = meta.get("shape", ()), meta.get("path", "")
    need(isinstance(shape, tuple) and all(type(size) is int for size in shape), "its shape is damaged")
    need(isinstance(meta.get("is_floating_point", True), bool) and isinstance(path, str), "it is damaged")
    return meta
