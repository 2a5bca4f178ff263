r"""
Attention, written out so that neurons can stand before each of its products.

A row of scores s becomes shares of the largest, :math:`e_j = \exp(s_j - \max_i s_i)`. They reach from 0 to 1 in every
row, so that a neuron's levels are used whatever the row is like. What is left of the softmax is a division of the
row's sum of values by the row's number of spikes:

.. math:: \mathrm{softmax}(s)\,V = \frac{e V}{e \mathbf{1}}
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn

from ...neuron.activations import SpikingShare
from .normalisation import Normalisation
from .operations import is_kept, operation, operator_of
from .passes import free_name
from .plain import PlainGraph
from .signals import operation_name

_aten = torch.ops.aten


def write_out_attention(model: fx.GraphModule) -> None:
    """
    Make ``scaled_dot_product_attention`` two products and a softmax between them, in place. With dropout it stays.

    :param model: a captured network with shapes
    """
    for node in list(model.graph.nodes):
        if operator_of(node) == "scaled_dot_product_attention" and not is_kept(node):
            a = _arguments(node)
            if not a["dropout_p"]:
                _write_out(model, node, a)
    model.graph.lint()
    model.recompile()


def split_softmaxes(model: fx.GraphModule) -> None:
    """
    Let each softmax whose rows weigh values in a matrix product take its sum from the spikes, in place; see above.

    :param model: a captured network with shapes
    """
    for node in list(model.graph.nodes):
        product = _weighed_product(model, node)
        if product is not None:
            body = _Body()
            scores = body.x()
            shares = _place(model, node, node, body.shares(scores), (node.args[0],), "softmax")
            node.replace_all_uses_with(_spiking(model, node, shares))
            _divide(model, node, product)
            model.graph.erase_node(node)
    model.graph.lint()
    model.recompile()


class _Body:
    """The graph of a :class:`Normalisation`."""

    def __init__(self) -> None:
        self.graph = fx.Graph()

    def x(self) -> fx.Node:
        return self.graph.placeholder(f"x{len(self.graph.nodes)}")

    def call(self, function: Callable[..., Any], *args: object) -> fx.Node:
        return self.graph.call_function(function, args)

    def shares(self, scores: fx.Node) -> Normalisation:
        top = self.call(_aten.amax.default, scores, [-1], True)
        # of a row of which nothing counts nothing is left
        top = self.call(_aten.masked_fill.Scalar, top, self.call(_aten.eq.Scalar, top, -math.inf), 0.0)
        return self.build(self.call(_aten.exp.default, self.call(_aten.sub.Tensor, scores, top)))

    def build(self, result: fx.Node) -> Normalisation:
        self.graph.output(result)
        return Normalisation(PlainGraph(nn.Module(), self.graph))


def _arguments(node: fx.Node) -> dict[str, Any]:
    schema = node.target._schema.arguments
    defaults = {a.name: a.default_value for a in schema if a.has_default_value()}
    return defaults | dict(zip((a.name for a in schema), node.args, strict=False)) | node.kwargs


def _write_out(model: fx.GraphModule, node: fx.Node, a: dict[str, Any]) -> None:
    q, k, v, mask = a["query"], a["key"], a["value"], a["attn_mask"]
    if a["enable_gqa"]:
        k, v = (_repeated(node, x, q.meta["shape"][-3] // x.meta["shape"][-3]) for x in (k, v))
    *queries, features = q.meta["shape"]
    keys = k.meta["shape"][-2]
    # on the factor, which is smaller than the product
    scale = features**-0.5 if a["scale"] is None else a["scale"]
    q = _before(node, _aten.mul.Tensor, q, scale, shape=q.meta["shape"], name=f"{node.name}_scale")
    transposed = _before(node, _aten.transpose.int, k, -2, -1, shape=(*k.meta["shape"][:-2], features, keys))
    scores = _before(node, _aten.matmul.default, q, transposed, shape=(*queries, keys), name=f"{node.name}_scores")
    body = _Body()
    s = body.x()
    values: tuple[fx.Node, ...] = (scores,)
    given = None if mask is None else body.x()
    weighed = s
    if a["is_causal"]:
        weighed = body.call(_aten.masked_fill.Scalar, s, _later(body, s, len(queries) + 1), -math.inf)
    if mask is not None:
        values, weighed = (scores, mask), _masked(body, weighed, given, mask.meta["is_floating_point"])
    shares = _spiking(model, node, _place(model, node, scores, body.shares(weighed), values, "softmax"))
    product = _before(node, _aten.matmul.default, shares, v, shape=node.meta["shape"], name=f"{node.name}_values")
    node.replace_all_uses_with(_divide(model, node, product))
    model.graph.erase_node(node)


def _repeated(node: fx.Node, x: fx.Node, times: int) -> fx.Node:
    """Heads of keys or values, each for several heads of queries."""
    shape = x.meta["shape"]
    shape = (*shape[:-3], shape[-3] * times, *shape[-2:])
    return _before(node, _aten.repeat_interleave.self_int, x, times, -3, shape=shape)


def _later(body: _Body, scores: fx.Node, dims: int) -> fx.Node:
    """Where in a map of scores the key comes after the query."""
    for _ in range(dims - 2):
        scores = body.call(_aten.select.int, scores, 0, 0)
    ones = body.call(_aten.ones_like.default, scores)
    return body.call(_aten.eq.Scalar, body.call(_aten.tril.default, ones), 0)


def _masked(body: _Body, scores: fx.Node, mask: fx.Node, is_floating_point: bool) -> fx.Node:
    if is_floating_point:
        return body.call(_aten.add.Tensor, scores, mask)
    return body.call(_aten.masked_fill.Scalar, scores, body.call(_aten.logical_not.default, mask), -math.inf)


def _weighed_product(model: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """The matrix product of which the rows of a softmax ``node`` are the first factor, and nothing else is done."""
    if operator_of(node) not in ("softmax", "_safe_softmax") or is_kept(node) or "shape" not in node.meta:
        return None
    dims = len(node.meta["shape"])
    if node.args[1] % dims != dims - 1 or any(value is not None for value in node.args[2:]):
        return None
    while len(node.users) == 1:
        (user,) = node.users
        if operator_of(user) in ("matmul", "bmm"):
            return user if user.args[0] is node and user.args[1] is not node else None
        keeps_rows = operation(model, user).moves and user.args[0] is node
        if not keeps_rows or user.meta.get("shape", ())[-1:] != node.meta["shape"][-1:]:
            return None
        if operator_of(user) not in ("reshape", "view", "flatten", "unflatten", "expand", "clone", "contiguous", None):
            return None
        node = user
    return None


def _spiking(model: fx.GraphModule, node: fx.Node, shares: fx.Node) -> fx.Node:
    return _place(model, node, shares, SpikingShare(), (shares,), "spikes")


def _divide(model: fx.GraphModule, node: fx.Node, product: fx.Node) -> fx.Node:
    """What the rows of the softmax ``node`` make of the values, which ``product`` has weighed and added up."""
    body, readers = _Body(), list(product.users)
    values, weights = body.x(), body.x()
    total = body.call(_aten.sum.dim_IntList, weights, [-1], True)
    # the largest share is 1, so that less than a half is a row of which nothing counts
    result = body.build(body.call(_aten.div.Tensor, values, body.call(_aten.clamp_min.default, total, 0.5)))
    divided = _place(model, node, product, result, (product, product.args[0]), "sum")
    for reader in readers:
        reader.replace_input_with(product, divided)
    return divided


def _place(
    model: fx.GraphModule, node: fx.Node, after: fx.Node, module: nn.Module, values: tuple[fx.Node, ...], what: str
) -> fx.Node:
    """The call of a new module, which is named after ``node``."""
    name = free_name(model, f"{operation_name(node)}_{what}".replace(".", "_"))
    model.add_submodule(name, module)
    with model.graph.inserting_after(after):
        new = model.graph.call_module(name, values)
    new.meta.update(after.meta)
    return new


def _before(
    node: fx.Node, function: Callable[..., Any], *args: object, shape: tuple[int, ...], name: str | None = None
) -> fx.Node:
    """A new operation in front of ``node``."""
    with node.graph.inserting_before(node):
        new = node.graph.create_node("call_function", function, args, name=name)
    new.meta.update(node.meta, shape=shape)
    return new
