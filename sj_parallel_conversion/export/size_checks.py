"""The sizes that a network takes, as checks in a graph."""

from __future__ import annotations

import ast
import math
import operator
from types import SimpleNamespace

import torch
from torch import fx

from ..ann2snn.graph.sizes import Sizes
from ..torch_compat import check_at_run_time


def check_sizes(graph: fx.Graph, sizes: Sizes, tensors: list[fx.Node]) -> None:
    """
    :param graph: gets checks, which raise AssertionError at run time
    :param sizes: of the network
    :param tensors: its inputs in the graph
    """
    known: dict[str, fx.Node] = {}
    for name, x, shape in zip(sizes.names, tensors, sizes.sizes, strict=True):
        for axis, expected in enumerate(shape):
            size = graph.call_function(torch.ops.aten.sym_size.int, (x, axis))
            if isinstance(expected, str) and expected not in known:
                known[expected] = size
                continue
            wanted = expected if isinstance(expected, int) else known[expected]
            holds = graph.call_function(operator.eq, (size, wanted))
            reason = f"has to be {expected}" if isinstance(expected, int) else "has to be that of another input"
            graph.call_function(check_at_run_time, (holds, f"{name}.shape[{axis}] {reason}"))
    batch = None if sizes.batch is None else known.get(sizes.batch)
    if batch is not None and sizes.smallest_batch > 1:
        holds = graph.call_function(operator.ne, (batch, 1))
        graph.call_function(check_at_run_time, (holds, "the network takes batches of two samples or more"))
    for condition, names in sizes.conditions:
        holds = _evaluated(graph, condition, {name: known[name] for name in names})
        if sizes.batch in names:  # the capture takes it for granted that there are two samples or more
            holds = graph.call_function(operator.or_, (holds, graph.call_function(operator.lt, (batch, 2))))
        where = {name: f"{n}.shape[{i}]" for n, shape in zip(sizes.names, sizes.sizes, strict=True)
                 for i, name in reversed(list(enumerate(shape)))}  # fmt: skip
        words = ", ".join(f"{name} is {where[name]}" for name in names)
        message = f"the network holds for sizes with {condition} ({words})"
        graph.call_function(check_at_run_time, (holds, message))
    for node in list(graph.nodes):  # sizes that no check has asked for
        if node.target is torch.ops.aten.sym_size.int and not node.users:
            graph.erase_node(node)


class _OnProxies(ast.NodeTransformer):
    """Words such as ``and``, which ask for a bool at once, become operators that a graph records."""

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.expr:
        self.generic_visit(node)
        operation = ast.BitAnd() if isinstance(node.op, ast.And) else ast.BitOr()
        result = node.values[0]
        for value in node.values[1:]:
            result = ast.BinOp(result, operation, value)
        return result

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.expr:
        self.generic_visit(node)
        return ast.Call(ast.Name("not_", ast.Load()), [node.operand], []) if isinstance(node.op, ast.Not) else node


def _evaluated(graph: fx.Graph, condition: str, values: dict[str, fx.Node]) -> fx.Node:
    """A Python expression of sizes as nodes of a graph."""
    tracer = fx.proxy.GraphAppendingTracer(graph)

    def recorded(function: object) -> object:
        return lambda *args: tracer.create_proxy("call_function", function, args, {})

    functions = {"min": torch.sym_min, "max": torch.sym_max, "abs": operator.abs, "not_": operator.not_}
    names = {name: recorded(function) for name, function in functions.items()}
    names["math"] = SimpleNamespace(**{name: recorded(getattr(math, name)) for name in ("floor", "ceil", "trunc")})
    code = ast.fix_missing_locations(_OnProxies().visit(ast.parse(condition, mode="eval")))
    proxies = {name: fx.Proxy(node, tracer) for name, node in values.items()}
    return eval(compile(code, "<sizes>", "eval"), {"__builtins__": {}, **names}, proxies).node
