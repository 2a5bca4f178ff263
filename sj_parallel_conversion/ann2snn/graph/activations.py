"""
Activations by structure: connected pointwise operations that make one value of one other are one activation, however
they are written.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx

from ...errors import ConversionError
from ...torch_compat import is_pointwise, is_random
from .formula import Formula
from .known import known_activation
from .naming import Names
from .operations import POOLING, is_affine, is_kept, is_size, module_of, operation, operator_of
from .plain import put
from .registry import bounds

# Torch does not mark them as pointwise, though they work on each value alone.
_UNMARKED = {"hardswish", "prelu", "_prelu_kernel", "celu", "selu", "rrelu", "log_sigmoid", "softplus", "softshrink",
             "hardshrink", "_to_copy", "gelu", "mish", "threshold", "hardtanh", "leaky_relu", "elu",
             "zeros_like", "ones_like", "full_like", "where", "masked_fill", "rsub", "detach", "floor_divide",
             "fake_quantize_per_tensor_affine"}  # fmt: skip
# Alone, without an activation among them, these are arithmetic: parts of a normalisation, of a softmax, of a position.
_ARITHMETIC = {"exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "sqrt", "rsqrt", "reciprocal", "sin", "cos",
               "tan", "square", "pow", "div", "mul", "add", "sub", "rsub", "neg", "_to_copy", "remainder", "fmod",
               "bitwise_not", "logical_not", "isnan", "isinf", "eq", "ne", "lt", "le", "gt", "ge", "clone",
               "floor_divide", "atan2", "clamp", "clamp_min", "clamp_max", "abs", "nan_to_num",
               "floor", "ceil", "round", "trunc", "frac", "zeros_like", "ones_like", "full_like",
               "detach"}  # fmt: skip
# What is both of a row is an activation all the same: a quantiser, a sigmoid or a softplus by hand.
_TOGETHER = (
    ({"floor", "ceil", "round", "trunc", "floor_divide"}, {"clamp", "clamp_min", "clamp_max"}),
    ({"exp", "exp2", "expm1"}, {"log", "log2", "log1p", "reciprocal"}),
)
_BENDING = {"exp", "erf", "log1p", "sin", "cos", "sqrt", "clamp", "clamp_min", "clamp_max", "abs"}
REDUCTIONS = {"mean", "sum", "amax", "amin", "max", "min", "linalg_vector_norm", "var", "std", "prod", "cumsum"}


@dataclass(frozen=True)
class _Group:
    """Operations that are one activation: ``result`` is a function of ``source`` alone."""

    source: fx.Node
    result: fx.Node
    nodes: tuple[fx.Node, ...]


def find_activations(model: fx.GraphModule, names: Names) -> None:
    """
    Put a module in the place of each activation, in place. One operator that torch has a module for becomes that
    module; what is composed becomes a :class:`~.formula.Formula`.

    :param model: a graph from :func:`~.build.build`
    :param names: of its modules
    """
    changing = _depend_on_input(model)
    sources: dict[fx.Node, list[fx.Node]] = {}
    for node in model.graph.nodes:
        sources[node] = _possible_sources(node, changing, sources)
    groups: list[_Group] = []
    taken: set[fx.Node] = set()
    for node in reversed(list(model.graph.nodes)):
        group = None if node in taken else _group_of(model, node, sources[node], changing, taken)
        if group is not None:
            taken.update(group.nodes)
            groups.append(group)
    # modules and their names in the order in which they run; calls from the end, so that each finds its source
    placed = [(group, _place_module(model, group, names)) for group in reversed(groups)]
    for group, name in reversed(placed):
        _call_module(model, group, name)
    model.graph.eliminate_dead_code()
    model.graph.lint()
    model.recompile()


def is_pointwise_operation(node: fx.Node) -> bool:
    """Whether ``node`` is a function of each value alone, and draws no random numbers."""
    if node.op != "call_function" or (is_random(node.target) and operator_of(node) != "rrelu"):
        return False
    return is_pointwise(node.target) or operator_of(node) in _UNMARKED


def _possible_sources(
    node: fx.Node, changing: set[fx.Node], sources: dict[fx.Node, list[fx.Node]]
) -> list[fx.Node]:
    """The values of which ``node`` is a function, each alone, through pointwise operations; the nearest first."""
    inputs = [n for n in node.all_input_nodes if n in changing]
    constants = [n for n in node.all_input_nodes if n not in changing]
    if not is_pointwise_operation(node) or not inputs or any("shape" not in n.meta for n in inputs):
        return []
    if any(n.op != "get_attr" for n in constants):  # made of sizes, say
        return []
    first, *others = ([n, *sources[n]] for n in inputs)
    return [n for n in first if all(n in other for other in others)]


def _group_of(
    model: fx.GraphModule, result: fx.Node, sources: list[fx.Node], changing: set[fx.Node], taken: set[fx.Node]
) -> _Group | None:
    """The largest activation that ends in ``result``."""
    if not result.meta.get("is_floating_point"):
        return None
    for source in reversed(sources):
        if source.meta.get("shape") != result.meta.get("shape") or not source.meta.get("is_floating_point"):
            continue
        nodes = between(source, result, changing)
        inner = set(nodes)
        escapes = any(user not in inner for node in nodes if node is not result for user in node.users)
        if escapes or inner & taken or not all(map(is_pointwise_operation, nodes)):
            continue
        group = _trimmed(model, _Group(source, result, nodes))
        if group is not None and _is_activation(model, group):
            return group
    return None


def between(source: fx.Node, result: fx.Node, changing: set[fx.Node]) -> tuple[fx.Node, ...]:
    """The operations that make ``result`` of ``source``, in the order in which they run."""
    found, stack = {result}, [result]
    while stack:
        for node in stack.pop().all_input_nodes:
            if node is not source and node in changing and node not in found:
                found.add(node)
                stack.append(node)
    order = {node: i for i, node in enumerate(result.graph.nodes)}
    return tuple(sorted(found, key=order.__getitem__))


def _trimmed(model: fx.GraphModule, group: _Group) -> _Group | None:
    """
    Without the affine operations at its ends, which belong to the synapses, where the rest is one known activation or
    they bring tensors in; ``None`` if nothing is left.
    """
    bent = [node for node in group.nodes if not is_affine(model, node, _constants(node, group))]
    if not bent:
        return None
    if len(bent) == 1 and known_activation(model, bent[0]) is not None and _all_through(bent[0], group):
        (node,) = bent
        return _Group(_varying(node, group)[0], node, (node,))
    nodes, source, result = list(group.nodes), group.source, group.result
    while nodes and nodes[-1] not in bent and _reads_tensors(nodes[-1]) and len(_varying(nodes[-1], group)) == 1:
        result = _varying(nodes.pop(), group)[0]
    while nodes[0] not in bent and _reads_tensors(nodes[0]) and _alone_reads(nodes, source):
        source = nodes.pop(0)
    return _Group(source, result, tuple(nodes)) if nodes and nodes[-1] is result else None


def _constants(node: fx.Node, group: _Group) -> list[fx.Node]:
    return [n for n in node.all_input_nodes if n is not group.source and n not in group.nodes]


def _varying(node: fx.Node, group: _Group) -> list[fx.Node]:
    return [n for n in node.all_input_nodes if n is group.source or n in group.nodes]


def _all_through(node: fx.Node, group: _Group) -> bool:
    """Whether the result depends on the source through ``node`` alone, which works on one value of its shape."""
    if len(_varying(node, group)) != 1 or node.meta.get("shape") != group.source.meta.get("shape"):
        return False
    behind = {node}
    for other in group.nodes:
        inputs = set(_varying(other, group))
        if other is not node and inputs & behind:
            if not inputs <= behind:
                return False
            behind.add(other)
    return True


def _reads_tensors(node: fx.Node) -> bool:
    return any(n.op == "get_attr" and n.meta.get("shape", ()) not in ((), (1,)) for n in node.all_input_nodes)


def _alone_reads(nodes: list[fx.Node], source: fx.Node) -> bool:
    return sum(source in node.all_input_nodes for node in nodes) == 1 and len(nodes) > 1


def _is_activation(model: fx.GraphModule, group: _Group) -> bool:
    names = {operator_of(node) for node in group.nodes}
    if len(group.nodes) == 1 and known_activation(model, group.result) is not None:
        return True
    squares = any(map(_is_square, group.nodes)) and not _is_reduced(model, group.result)
    together = any(names & one and names & other for one, other in _TOGETHER)
    if names <= _ARITHMETIC and not squares and not together and not _multiplies_itself(group):
        return False
    # What is computed of the network's input before the first layer is a preparation of it.
    return not _is_preparation(model, group.source)


def _is_square(node: fx.Node) -> bool:
    name = operator_of(node)
    power = node.args[1] if name == "pow" else 2 if name == "mul" and node.args[0] is node.args[1] else 1
    return name in ("square", "abs") or (isinstance(power, (int, float)) and power in range(2, 9))


def _is_reduced(model: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a sum or a mean over axes is taken of the value, as in a normalisation."""
    for user in node.users:
        row = operation(model, user)
        if operator_of(user) in REDUCTIONS or row.kind == POOLING or (row.moves and _is_reduced(model, user)):
            return True
    return False


def _multiplies_itself(group: _Group) -> bool:
    """Whether two functions of the value are multiplied, as in ``x * exp(x)``: no part of a normalisation is that."""
    products = (n for n in group.nodes if operator_of(n) in ("mul", "div"))
    return any(operator_of(n) in _BENDING for n in group.nodes) and any(len(_varying(n, group)) == 2 for n in products)


def _is_preparation(model: fx.GraphModule, node: fx.Node) -> bool:
    while node.op == "call_function" and node.all_input_nodes:
        sources = [n for n in node.all_input_nodes if n.op != "get_attr" and not is_size(model, n)]
        if len(sources) != 1:
            return False
        (node,) = sources
    return node.op == "placeholder"


def _place_module(model: fx.GraphModule, group: _Group, names: Names) -> str:
    """:return: the name of a new module that does what ``group`` does"""
    known = known_activation(model, group.result) if len(group.nodes) == 1 else None
    module = Formula.of(model, group.source, group.nodes) if known is None else known
    operator = None if known is None else operator_of(group.result)
    name = names.of_path(_common_path(group.nodes), operator or "activation")
    put(model, name, module.eval())
    return name


def _call_module(model: fx.GraphModule, group: _Group, name: str) -> None:
    with model.graph.inserting_after(group.result):
        call = model.graph.call_module(name, (group.source,))
    call.meta.update(group.result.meta, path=_common_path(group.nodes))
    group.result.replace_all_uses_with(call, delete_user_cb=lambda user: user is not call)
    for node in reversed(group.nodes):  # those that draw random numbers would stay
        if not node.users:
            model.graph.erase_node(node)


def _common_path(nodes: tuple[fx.Node, ...]) -> str:
    """The innermost module in which all of these operations stand."""
    parts = [node.meta.get("path", "").split(".") for node in nodes]
    common: list[str] = []
    for level in zip(*parts, strict=False):
        if len(set(level)) > 1:
            break
        common.append(level[0])
    return ".".join(common)


def activation_sites(model: fx.GraphModule) -> list[fx.Node]:
    """
    :param model: a graph with its activations as modules
    :return: the nodes of the graph that a spiking neuron will replace, in order
    :raises ConversionError: if there is none
    """
    sites = possible_sites(model)
    if not sites:
        raise ConversionError(
            "nothing to convert: the model has no activation that a spiking neuron can replace (ReLU, GELU, SiLU, "
            "QCFS, or any function of one value that is not affine; sj_parallel_conversion.register_activation names "
            "one that is not found). Those that keep names do not count"
        )
    return sites


def possible_sites(model: fx.GraphModule) -> list[fx.Node]:
    """As :func:`activation_sites`; there may be none."""
    changing = _depend_on_input(model)
    return [node for node in model.graph.nodes if node in changing and is_site(model, node)]


def is_site(model: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a neuron can stand for ``node``."""
    module = module_of(model, node)
    if module is None or is_kept(node) or len(node.args) != 1 or node.kwargs:
        return False
    return isinstance(node.args[0], fx.Node) and bounds(module) is not None and node.meta.get("is_floating_point", True)


def _depend_on_input(model: fx.GraphModule) -> set[fx.Node]:
    """All nodes but those that compute the same for every input, such as a bias from a table of positions."""
    changing: set[fx.Node] = set()
    for node in model.graph.nodes:
        if node.op == "placeholder" or any(source in changing for source in node.all_input_nodes):
            changing.add(node)
    return changing
