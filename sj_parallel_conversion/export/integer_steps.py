"""The operations that a network of integers may have, one function each."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from ..ann2snn.graph.folded import Rescale, ResidualAdd, ToLevels
from ..ann2snn.graph.operations import module_of, operator_of
from ..neuron import SpikingActivation, SpikingNode
from .integer_program import CURRENT, GRADED, LEVELS, Program, Value
from .translate import Observed, plain, refuse_int8


def program_of(net: fx.GraphModule, observed: Observed) -> Program:
    """
    :param net: a converted graph
    :param observed: of a run of it
    :return: its operations
    :raises ConfigError: if one of them has no integer form; the message names it
    """
    program = Program(observed)
    for node in net.graph.nodes:
        if node.op == "placeholder":
            program.values[node] = Value(GRADED)
        elif node.op == "output":
            program.outputs = tuple(node.args[0])
        elif operator_of(node) not in ("sym_size", "sym_numel"):
            _add(program, node, module_of(net, node))
    return program


def _add(program: Program, node: fx.Node, module: nn.Module | None) -> None:
    if module is None:
        handler = _OPERATORS.get(operator_of(node))
    else:
        refuse_int8(module, node.target)
        module = plain(module)
        handler = next((_MODULES[cls] for cls in type(module).__mro__ if cls in _MODULES), None)
    if handler is None:
        kind = "" if module is None else f" ({type(module).__name__})"
        raise program.refuse(node, f"has no form on integers{kind}. These have one: {_NAMES}")
    handler(program, node) if module is None else handler(program, node, module)


def _layer(program: Program, node: fx.Node, module: nn.Module) -> None:
    (source,) = node.args
    read = program.values[source]
    if read.kind == CURRENT:
        raise program.refuse(node, "reads the currents of another layer, and not levels of neurons")
    if read.kind == LEVELS:
        program.merged.append(len(program.merged))
        result = Value(CURRENT, group=len(program.merged) - 1)
    else:
        result = Value(GRADED)
    settings = {}
    if isinstance(module, nn.Conv2d):
        if module.padding_mode != "zeros" or not isinstance(module.padding, tuple):
            raise program.refuse(node, "is padded with something else than a number of zeros")
        settings = {k: list(getattr(module, k)) for k in ("stride", "padding", "dilation")} | {"groups": module.groups}
    op = "conv" if isinstance(module, nn.Conv2d) else "linear"
    bias = module.weight.new_zeros(len(module.weight)) if module.bias is None else module.bias
    program.put(op, node, [source], result, weight=module.weight, bias=bias, **settings)


def _neuron(program: Program, node: fx.Node, site: SpikingActivation) -> None:
    neuron, (source,) = site.node, node.args
    largest = neuron.code.max_level(neuron.T)
    if largest != int(largest):
        raise program.refuse(node, "is a neuron whose levels are no integers")
    result = Value(LEVELS, _unit(program, node, neuron), int(largest))
    bounds = {"lowest": int(neuron.min_level), "highest": int(largest)}
    if neuron.folded_input:
        program.put("neuron", node, [source], result, **bounds)
        return
    if program.values[source].kind != GRADED:
        raise program.refuse(
            node, "is a neuron whose threshold is not part of the weights before it. Convert with fold=True"
        )
    program.put("encode", node, [source], result, **bounds, **_line(neuron, program.shape(source)))


def _unit(program: Program, node: fx.Node, neuron: SpikingNode) -> float | tuple[float, ...]:
    if neuron.activation is not None or neuron.formula is not None:
        raise program.refuse(node, "is a neuron with an activation that is no ReLU")
    if neuron.folded_output:
        return 1.0
    unit = neuron.unit.detach()
    if unit.unique().numel() == 1:
        return unit.flatten()[0].item()
    if neuron.channel_dim % len(program.shape(node)) != 1:
        raise program.refuse(node, "is a neuron whose levels stand for other values along an axis that is no channel")
    return tuple(unit.tolist())


def _line(neuron: SpikingNode, shape: tuple[int, ...]) -> dict[str, Tensor]:
    """``level = floor(gain * x + offset)`` of a neuron that reads floats."""
    n = neuron.code.levels_per_threshold(neuron.T)
    psi = neuron.v_threshold / 2 if neuron.psi is None else neuron.psi
    gain, offset = n / neuron.v_threshold, (neuron.shift * n + psi) / neuron.v_threshold
    sizes = [-1 if i == neuron.channel_dim % len(shape) else 1 for i in range(1, len(shape))]
    return {"gain": gain.view(sizes) if gain.dim() else gain, "offset": offset.view(sizes) if offset.dim() else offset}


def _pool(program: Program, node: fx.Node, module: nn.Module) -> None:
    (source,) = node.args
    value = program.values[source]
    is_max = isinstance(module, nn.MaxPool2d)
    form = {k: _pair(getattr(module, f"{k}")) for k in ("kernel_size", "stride", "padding")}
    if module.ceil_mode or (is_max and (_pair(module.dilation) != [1, 1] or module.return_indices)):
        raise program.refuse(node, "pools with ceil_mode, dilation or indices")
    if is_max:
        program.put("max_pool", node, [source], value, **form)
        return
    program.levels(node, source, one_unit=False)
    if form["padding"] != [0, 0] or module.divisor_override is not None:
        raise program.refuse(node, "is an average over borders, or with a divisor of its own")
    size = form["kernel_size"][0] * form["kernel_size"][1]
    del form["padding"]
    program.put("sum_pool", node, [source], _sum_of(value, size), **form)


def _global_pool(program: Program, node: fx.Node, module: nn.Module) -> None:
    if _pair(module.output_size) != [1, 1]:
        raise program.refuse(node, "is an adaptive average that is not global")
    _mean_over(program, node, (2, 3), True)


def _mean(program: Program, node: fx.Node) -> None:
    axes = node.args[1] if len(node.args) > 1 else None
    if not axes or "dtype" in node.kwargs:
        raise program.refuse(node, "is a mean over the samples as well")
    rank = len(program.shape(node.args[0]))
    _mean_over(program, node, tuple(a % rank for a in axes), len(node.args) > 2 and bool(node.args[2]))


def _mean_over(program: Program, node: fx.Node, axes: tuple[int, ...], keeps: bool) -> None:
    source = node.args[0]
    if 0 in axes:
        raise program.refuse(node, "is a mean over the samples")
    size = math.prod(program.shape(source)[a] for a in axes)
    result = _sum_of(program.levels(node, source, one_unit=1 in axes), size)
    program.put("sum", node, [source], result, axes=list(axes), keepdims=keeps)


def _sum_of(value: Value, size: int) -> Value:
    unit = tuple(u / size for u in value.unit) if isinstance(value.unit, tuple) else value.unit / size
    return replace(value, unit=unit, largest=value.largest * size)


def _rescale(program: Program, node: fx.Node, module: Rescale) -> None:
    value = program.levels(node, node.args[0])
    if module.factor.unique().numel() != 1:
        raise program.refuse(node, "scales the channels of levels by different factors")
    assert not isinstance(value.unit, tuple)  # levels() refuses such
    program.same(node, node.args[0])
    program.values[node] = replace(value, unit=value.unit * module.factor.flatten()[0].item())


def _to_levels(program: Program, node: fx.Node, module: ToLevels) -> None:
    raise program.refuse(node, "makes levels of a current that others read as it is. Convert with shortcut='spikes'")


def _residual(program: Program, node: fx.Node, module: ResidualAdd) -> None:
    x, y = node.args[:2]
    _sum(program, node, x, y, module.factor)


def _addition(program: Program, node: fx.Node) -> None:
    if len(node.args) != 2 or not all(isinstance(n, fx.Node) for n in node.args) or node.kwargs:
        raise program.refuse(node, "adds a constant, or scales what it adds")
    x, y = node.args
    if program.values[x].kind == LEVELS and program.values[y].kind == CURRENT:
        x, y = y, x
    _sum(program, node, x, y, None)


def _sum(program: Program, node: fx.Node, x: fx.Node, y: fx.Node, factor: Tensor | None) -> None:
    one, other = program.values[x], program.values[y]
    if program.shape(x) != program.shape(y):
        raise program.refuse(node, "adds values of different shapes")
    for source in (x, y):
        if program.values[source].kind == LEVELS:
            program.levels(node, source)  # of one unit
    if one.kind == CURRENT and other.kind == CURRENT and factor is None:
        program.merged[program.group(other)] = program.group(one)
        program.put("add", node, [x, y], one)
    elif one.kind == CURRENT and other.kind == LEVELS:
        factor = torch.ones(()) if factor is None else factor.detach()
        program.put("add", node, [x, y], one, factor=factor * other.unit)
    elif one.kind == other.kind == LEVELS and factor is None and one.unit == other.unit:
        program.put("add", node, [x, y], replace(one, largest=one.largest + other.largest))
    else:
        raise program.refuse(node, f"adds {other.kind} values, scaled, to {one.kind} values")


def _concatenation(program: Program, node: fx.Node) -> None:
    sources = list(node.args[0])
    values = [program.levels(node, source) for source in sources]
    axis = (node.args[1] if len(node.args) > 1 else 0) % len(program.shape(node))
    if axis == 0 or len({value.unit for value in values}) > 1:
        raise program.refuse(node, "joins samples, or levels that stand for different values")
    largest = max(value.largest for value in values)
    program.put("concatenate", node, sources, replace(values[0], largest=largest), axis=axis)


def _reshape(program: Program, node: fx.Node) -> None:
    source = node.args[0]
    before, after = program.shape(source), program.shape(node)
    if before == after:
        program.same(node, source)
    elif len(after) == 2 and before[0] == after[0]:
        program.put("flatten", node, [source], program.levels(node, source))
    else:
        raise program.refuse(node, f"makes {list(after)} of {list(before)}, which is no flattening")


def _slice(program: Program, node: fx.Node) -> None:
    source, *rest = node.args
    given: list[Any] = [*rest, *(0, None, None, 1)[len(rest):]]
    axis, start, stop, step = given
    shape = program.shape(source)
    if not all(isinstance(n, (int, type(None))) for n in (start, stop)):
        raise program.refuse(node, "takes a part that depends on a size")
    start, stop, step = slice(start, stop, step).indices(shape[axis])
    if (start, step) == (0, 1) and stop == shape[axis]:
        program.same(node, source)
    elif axis % len(shape) == 0:
        raise program.refuse(node, "takes some of the samples")
    else:
        bounds = {"start": start, "stop": stop, "step": step}
        program.put("slice", node, [source], program.levels(node, source), axis=axis % len(shape), **bounds)


def _pad(program: Program, node: fx.Node) -> None:
    source, widths = node.args[:2]
    constant = operator_of(node) == "constant_pad_nd" or len(node.args) < 3 or node.args[2] == "constant"
    value = node.kwargs.get("value") or (node.args[-1] if len(node.args) > 2 and node.args[-1] != "constant" else 0)
    if not constant or value or not all(isinstance(w, int) and w >= 0 for w in widths):
        raise program.refuse(node, "pads with something else than zeros")
    pairs = [list(widths[i : i + 2]) for i in range(0, len(widths), 2)][::-1]
    pairs = [[0, 0]] * (len(program.shape(source)) - len(pairs)) + pairs
    program.put("pad", node, [source], program.levels(node, source), widths=pairs)


def _unchanged(program: Program, node: fx.Node, module: nn.Module | None = None) -> None:
    program.same(node, node.args[0])


def _pair(value: Any) -> list[int]:
    return list(value) if isinstance(value, (tuple, list)) else [value, value]


_MODULES: dict[type[nn.Module], Callable[..., Any]] = {
    nn.Conv2d: _layer, nn.Linear: _layer, SpikingActivation: _neuron, nn.MaxPool2d: _pool, nn.AvgPool2d: _pool,
    nn.AdaptiveAvgPool2d: _global_pool, Rescale: _rescale, ToLevels: _to_levels, ResidualAdd: _residual,
    nn.Identity: _unchanged, nn.Dropout: _unchanged, nn.Dropout2d: _unchanged,
}  # fmt: skip
_OPERATORS: dict[str | None, Callable[..., Any]] = {
    "mean": _mean, "add": _addition, "cat": _concatenation, "slice": _slice, "pad": _pad, "constant_pad_nd": _pad,
    **dict.fromkeys(("reshape", "view", "flatten"), _reshape),
    **dict.fromkeys(("contiguous", "clone", "detach"), _unchanged),
}  # fmt: skip
_NAMES = (
    "2-D convolutions, linear layers, neurons, maxima and averages, additions, concatenations, slices, zero padding "
    "and flattening"
)
