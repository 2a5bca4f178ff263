"""A graph module that can be copied and saved: it holds no tensors without values, and is loaded without tracing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, SupportsIndex

import torch
from torch import fx, nn

from ...torch_compat import operator_named, qualified_name

_KEPT = ("shape", "is_floating_point", "path", "kept")  # of what is noted at a node


class PlainGraph(fx.GraphModule):
    """An ``fx.GraphModule`` that pickles node by node; torch's own runs its code on proxies when it is loaded."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        nodes = [
            (
                node.op,
                node.name,
                _Operator(name) if (name := qualified_name(node.target)) else node.target,
                _encode(node.args),
                _encode(node.kwargs),
                {key: node.meta[key] for key in _KEPT if key in node.meta},
            )
            for node in self.graph.nodes
        ]
        state = {key: value for key, value in self.__dict__.items() if key not in ("_graph", "_code")}
        return _load, (state, nodes)

    def __reduce_ex__(self, protocol: SupportsIndex) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.__reduce__()


class _Operator(str):
    """The name of an operator of torch."""


class _Reference(str):
    """The name of a node."""


def called(body: PlainGraph) -> str:
    """The names of its operations, in the order in which they run. (A method would stand before a user's module.)"""
    functions = [node.target for node in body.graph.nodes if node.op == "call_function"]
    return " ".join(getattr(f, "__name__", str(f)).partition(".")[0] for f in functions)


def _load(state: dict[str, object], nodes: list[tuple[Any, ...]]) -> PlainGraph:
    known: dict[Any, fx.Node] = {}
    graph = fx.Graph()
    for op, name, target, args, kwargs, meta in nodes:
        target = operator_named(target) if isinstance(target, _Operator) else target
        node = graph.create_node(op, target, _decode(args, known), _decode(kwargs, known), name)
        node.meta.update(meta)
        known[name] = node
    root = nn.Module()
    root.__dict__.update(state)
    module = PlainGraph(root, graph)
    module.__dict__.update({key: value for key, value in state.items() if key not in ("_graph", "_code")})
    return module


def _encode(value: object) -> Any:
    return map_leaves(value, lambda leaf: _Reference(leaf.name) if isinstance(leaf, fx.Node) else leaf)


def _decode(value: object, known: dict[str, fx.Node]) -> Any:
    return map_leaves(value, lambda leaf: known[leaf] if isinstance(leaf, _Reference) else leaf)


def put(module: nn.Module, name: str, value: torch.Tensor | nn.Module) -> None:
    """Store a module, a parameter or a buffer under a dotted name; what is missing on the way is made."""
    *path, last = name.split(".")
    for part in path:
        if part not in module._modules:
            module.add_module(part, nn.Module())
        module = module.get_submodule(part)
    if isinstance(value, nn.Module):
        module.add_module(last, value)
    elif isinstance(value, nn.Parameter):
        module.register_parameter(last, value)
    else:
        module.register_buffer(last, value)


def value_of(module: nn.Module, name: str) -> Any:
    """What is stored under a dotted name."""
    value: Any = module
    for part in name.split("."):
        value = getattr(value, part)
    return value


def leaves_of(value: object) -> list[object]:
    """The leaves of the arguments of a node."""
    found: list[object] = []
    map_leaves(value, found.append)
    return found


def varies(value: object) -> bool:
    """Whether there is a node among the arguments, and not only constants."""
    return any(isinstance(leaf, fx.Node) for leaf in leaves_of(value))


def map_leaves(value: object, change: Callable[[Any], object]) -> Any:
    """``value`` with each leaf changed; lists, tuples, dicts and slices stay such."""
    if isinstance(value, (tuple, list)):
        kind = tuple if isinstance(value, tuple) else list
        return kind(map_leaves(item, change) for item in value)
    if isinstance(value, dict):
        return {key: map_leaves(item, change) for key, item in value.items()}
    if isinstance(value, slice):
        return slice(*(map_leaves(item, change) for item in (value.start, value.stop, value.step)))
    return change(value)
