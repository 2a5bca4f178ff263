"""Attention written out, so that its linear layers can receive spikes."""

from __future__ import annotations

import operator

from torch import Tensor, fx, nn
from torch.nn import functional as F

from .passes import free_name


def attend(q: Tensor, k: Tensor, v: Tensor, num_heads: int, batch_first: bool) -> Tensor:
    r"""
    Multi-head attention between its linear layers, :math:`\mathrm{softmax}(Q K^T / \sqrt{d}) V` for each head.

    :param q: queries ``[N, L, E]``, or ``[L, N, E]``
    :param k: keys, ``[N, S, E]`` or ``[S, N, E]``
    :param v: values, like the keys
    :param num_heads: number of heads
    :param batch_first: which of the two
    :return: the shape of ``q``
    """
    order, back = ((0, 2, 1, 3), (0, 2, 1, 3)) if batch_first else ((1, 2, 0, 3), (2, 0, 1, 3))
    q, k, v = (x.unflatten(-1, (num_heads, -1)).permute(order) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).permute(back).flatten(-2)


def open_attention(model: fx.GraphModule) -> None:
    """
    Write each ``nn.MultiheadAttention`` without masks, and whose weights nobody reads, as four linear layers and
    :func:`attend`. Others stay as they are.

    :param model: a traced network in evaluation mode with an own module for each call; changed in place
    """
    for node in list(model.graph.nodes):
        module = model.get_submodule(node.target) if node.op == "call_module" else None
        if isinstance(module, nn.MultiheadAttention) and _is_plain(module, node):
            _write_out(model, node, module)
    model.delete_all_unused_submodules()
    model.recompile()


def _is_plain(module: nn.MultiheadAttention, node: fx.Node) -> bool:
    masks = [*node.args[3:4], *node.args[5:6], *(node.kwargs.get(name) for name in ("key_padding_mask", "attn_mask"))]
    return (
        len(node.args) >= 3
        and all(mask is None for mask in masks)
        and module.bias_k is None
        and not module.add_zero_attn
        and len(node.args[0].meta.get("shape", ())) == 3
        and all(user.target is operator.getitem and (user.args[1] == 0 or not user.users) for user in node.users)
    )


def _write_out(model: fx.GraphModule, node: fx.Node, module: nn.MultiheadAttention) -> None:
    projections = []
    with model.graph.inserting_before(node):
        for letter, value, layer in zip("qkv", node.args[:3], _projections(module), strict=True):
            name = free_name(model, f"{node.target}_{letter}")
            model.add_submodule(name, layer)
            projections.append(model.graph.call_module(name, (value,)))
        mixed = model.graph.call_function(attend, (*projections, module.num_heads, module.batch_first))
        name = free_name(model, f"{node.target}_out")
        model.add_submodule(name, module.out_proj)
        result = model.graph.call_module(name, (mixed,))
    mixed.meta["nn_module_stack"] = node.meta.get("nn_module_stack", {})
    for user in list(node.users):
        if user.users:
            user.replace_all_uses_with(result)
        model.graph.erase_node(user)
    model.graph.erase_node(node)


def _projections(module: nn.MultiheadAttention) -> list[nn.Linear]:
    if module.in_proj_weight is None:
        weights = [module.q_proj_weight, module.k_proj_weight, module.v_proj_weight]
    else:
        weights = list(module.in_proj_weight.chunk(3))
    biases = [None] * 3 if module.in_proj_bias is None else list(module.in_proj_bias.chunk(3))
    return [_linear(weight, bias) for weight, bias in zip(weights, biases, strict=True)]


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    layer.weight = nn.Parameter(weight.detach().clone())
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().clone())
    return layer.eval()
