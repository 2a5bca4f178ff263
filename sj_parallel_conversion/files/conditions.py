"""Conditions on sizes: the expressions that a file may hold. They are evaluated later, so that no other may come in."""

from __future__ import annotations

import ast

from ..errors import FileError

_LONGEST = 20_000  # characters
_MOST = 2_000  # parts of an expression
_CALLS = {"min", "max", "abs", "math.floor", "math.ceil", "math.trunc"}
_PLAIN = (
    ast.Expression, ast.Load, ast.BoolOp, ast.And, ast.Or, ast.UnaryOp, ast.Not, ast.USub, ast.UAdd, ast.BinOp, ast.Add,
    ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.Compare, ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE,
)  # fmt: skip


def check_condition(text: object, names: set[str]) -> None:
    """
    :param text: a Python expression
    :param names: the sizes that may stand in it
    :raises FileError: if there is anything else in it than arithmetic on sizes, comparisons, and a few functions
    """
    if not isinstance(text, str) or len(text) > _LONGEST:
        raise FileError("a condition on sizes is damaged")
    try:
        tree = ast.parse(text, mode="eval")
        compile(tree, "<condition>", "eval")  # runs nothing, and fails where it is nested too deep
        parts = list(ast.walk(tree))
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise FileError(f"the condition on sizes {text[:80]!r} is no expression") from error
    called = {id(part.func): part for part in parts if isinstance(part, ast.Call)}
    inside = {id(part.func.value) for part in called.values() if isinstance(part.func, ast.Attribute)}
    if len(parts) > _MOST:
        raise FileError("a condition on sizes is too long")
    for part in parts:
        if isinstance(part, _PLAIN) or id(part) in inside:
            continue
        if isinstance(part, ast.Call):
            allowed = ast.unparse(part.func) in _CALLS and not part.keywords
        elif id(part) in called:
            allowed = isinstance(part, (ast.Name, ast.Attribute))  # its name was looked at with the call
        elif isinstance(part, ast.Constant):
            allowed = type(part.value) in (int, float, bool)
        else:
            allowed = isinstance(part, ast.Name) and part.id in names
        if not allowed:
            raise FileError(f"the condition on sizes {text[:80]!r} holds more than arithmetic on sizes")
