"""
The one table of operations: what the rest of the package asks about each operator and each module of a graph.

A new operation is a new row. What has no row is analogue: it sees decoded values, and nothing passes it.
"""

from __future__ import annotations

import operator
from collections.abc import Collection
from dataclasses import dataclass, replace

from torch import fx, nn
from torch.nn.modules import batchnorm, conv, dropout, instancenorm, pooling

from ...torch_compat import packet_name
from .folded import Rescale, ResidualAdd, ToLevels
from .following import cast, construct
from .leaves import tensor_leaf
from .normalisation import Normalisation
from .registry import LEAVES

# What a node of a graph is, see :mod:`.signals`.
NODE, LAYER, POOLING, SCALE, WIRE, CONSTANT = "node", "layer", "pooling", "scale", "wire", "constant"
PRODUCT, NORMALISATION = "product", "normalisation"
# Commutes with the mean over time: in all its tensors together, or in one of them while the others are constant.
ALL, ONE = "all", "one"


@dataclass(frozen=True)
class Operation:
    """
    One row.

    :param kind: what it is if it commutes with the mean over time
    :param affine: :data:`ALL`, :data:`ONE`, or nothing for what does not commute
    :param moves: whether values are only moved, or joined by zeros, and none is changed
    :param spatial_axes: for what mixes the values of one channel and those alone, positively homogeneous: the number
        of axes behind the channels; -1: all
    :param is_max: whether it picks the largest of some values
    :param keeps_axes: whether each axis of its first input is the same axis of its result
    :param shape_only: whether it asks for the form of its inputs, and not for their values
    """

    kind: str = WIRE
    affine: str = ""
    moves: bool = False
    spatial_axes: int = 0
    is_max: bool = False
    keeps_axes: bool = False
    shape_only: bool = False

    @property
    def passes_units(self) -> bool:
        """Whether ``op(level * unit)`` is ``op(level)`` times a unit, for some units; see :mod:`.units`."""
        return self.moves or bool(self.spatial_axes)


_ANALOGUE = Operation()
_MOVING = Operation(WIRE, ALL, moves=True)
_STAYING = replace(_MOVING, keeps_axes=True)
_SUM = Operation(WIRE, ALL, keeps_axes=True)
_PRODUCT = Operation(LAYER, ONE)
_MEAN = Operation(POOLING, ALL)
_AVERAGE_POOL = Operation(POOLING, ALL, spatial_axes=1, keeps_axes=True)
_MAX_POOL = Operation(POOLING, "", spatial_axes=1, is_max=True, keeps_axes=True)
_UPSAMPLE = Operation(WIRE, ALL, spatial_axes=-1, keeps_axes=True)
_CUBIC = Operation(WIRE, ALL, keeps_axes=True)  # its weights may be negative
_SIZE = Operation(CONSTANT, ALL, shape_only=True)
_OF_A_GROUP = Operation(NORMALISATION)

OPERATORS: dict[str, Operation] = {
    **dict.fromkeys(
        ("reshape", "view", "permute", "transpose", "t", "squeeze", "unsqueeze", "flatten", "unflatten", "expand",
         "repeat", "tile", "repeat_interleave", "select",
         "split", "split_with_sizes", "chunk", "tensor_split", "unbind",
         "cat", "stack", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "movedim", "im2col", "diagonal",
         "as_strided", "unfold", "index", "index_select", "gather", "take_along_dim", "column_stack", "hstack",
         "vstack", "dstack", "expand_as", "view_as", "reshape_as", "broadcast_to", "numpy_T", "mT", "mH", "adjoint",
         "ravel", "atleast_1d", "atleast_2d", "atleast_3d", "hsplit", "vsplit", "dsplit", "rot90", "diag_embed",
         "take"), _MOVING),
    **dict.fromkeys(
        ("slice", "narrow", "roll", "flip", "detach", "pad", "constant_pad_nd", "reflection_pad1d", "reflection_pad2d",
         "reflection_pad3d", "replication_pad1d", "replication_pad2d", "replication_pad3d", "contiguous", "clone",
         "fliplr", "flipud"), _STAYING),
    **dict.fromkeys(("add", "sub", "rsub", "neg"), _SUM),
    **dict.fromkeys(("cumsum", "slice_scatter", "select_scatter", "tril", "triu"), _SUM),
    **dict.fromkeys(
        ("copy", "diff", "col2im", "sum_to_size", "index_put", "index_add", "index_copy", "scatter", "scatter_add"),
        Operation(WIRE, ALL)),
    **dict.fromkeys(("where", "masked_fill"), Operation(WIRE, ONE, keeps_axes=True)),
    "sum": Operation(WIRE, ALL), "mean": _MEAN,
    **dict.fromkeys(("mul", "div"), Operation(SCALE, ONE, keeps_axes=True)),
    **dict.fromkeys(
        ("matmul", "mm", "bmm", "mv", "dot", "einsum", "linear", "addmm", "baddbmm", "convolution", "tensordot",
         "addmv", "inner", "outer", "kron", "bilinear",
         *(f"conv{d}d" for d in (1, 2, 3)), *(f"conv_transpose{d}d" for d in (1, 2, 3))), _PRODUCT),
    **{name: replace(_AVERAGE_POOL, spatial_axes=d) for d in (1, 2, 3)
       for name in (f"avg_pool{d}d", f"adaptive_avg_pool{d}d", f"_adaptive_avg_pool{d}d")},
    **{f"max_pool{d}d": replace(_MAX_POOL, spatial_axes=d) for d in (1, 2, 3)},
    **dict.fromkeys(
        ("upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "upsample_linear1d", "upsample_bilinear2d",
         "upsample_trilinear3d", "_upsample_nearest_exact1d", "_upsample_nearest_exact2d", "_upsample_nearest_exact3d"),
        _UPSAMPLE),
    **dict.fromkeys(("upsample_bicubic2d", "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa"), _CUBIC),
    **dict.fromkeys(("_to_copy", "type_as"), Operation(WIRE, ALL, keeps_axes=True)),
    **dict.fromkeys(
        ("sym_size", "sym_numel", "sym_stride", "zeros_like", "ones_like", "full_like", "empty_like", "new_zeros",
         "new_ones", "new_full", "new_empty"), _SIZE),
}  # fmt: skip

# Each of their results depends on a group of values: on a row of scores, on the features of a token.
NORMALISATIONS = dict.fromkeys(
    ("softmax", "_safe_softmax", "log_softmax", "layer_norm", "group_norm", "instance_norm", "rms_norm"), _OF_A_GROUP
)
# Linear in each of two factors.
_BILINEAR = {"matmul", "mm", "bmm", "mv", "dot", "mul", "einsum"}

# Operators whose indices have to be constant: for those that write, the place of the indices among the arguments.
_READS_AT = ("index", "index_select", "gather", "take_along_dim", "take")
_WRITES_AT = {"index_put": 1, "index_add": 2, "index_copy": 2, "scatter": 2, "scatter_add": 2}
# The place of the indices, or of a mask, among the arguments.
MUST_NOT_CHANGE = _WRITES_AT | {
    "index": 1, "index_select": 2, "gather": 2, "take_along_dim": 1, "take": 1, "embedding": 1, "embedding_bag": 1,
    "one_hot": 0, "where": 0, "masked_fill": 1, "masked_scatter": 1,
}  # fmt: skip

# Python functions of a graph: of this package, and on sizes.
FUNCTIONS: dict[object, Operation] = {
    operator.getitem: _MOVING, tensor_leaf: _MOVING, cast: Operation(WIRE, ALL, keeps_axes=True), construct: _SIZE,
}  # fmt: skip

MODULES: dict[type[nn.Module], Operation] = {
    conv._ConvNd: _PRODUCT, nn.Linear: _PRODUCT, nn.Embedding: Operation(LAYER), nn.EmbeddingBag: Operation(LAYER),
    batchnorm._BatchNorm: Operation(SCALE, ALL, keeps_axes=True),
    pooling._AvgPoolNd: _AVERAGE_POOL, pooling._AdaptiveAvgPoolNd: _AVERAGE_POOL,
    pooling._MaxPoolNd: _MAX_POOL, pooling._AdaptiveMaxPoolNd: _MAX_POOL,
    dropout._DropoutNd: _STAYING, nn.Identity: _STAYING,
    **dict.fromkeys((nn.LayerNorm, nn.GroupNorm, instancenorm._InstanceNorm, Normalisation), _OF_A_GROUP),
    **dict.fromkeys((Rescale, ResidualAdd, ToLevels), Operation(WIRE, ALL, keeps_axes=True)),
}  # fmt: skip


def module_of(model: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    """The module that a node calls; ``None`` for everything else."""
    return model.get_submodule(node.target) if node.op == "call_module" else None


def is_kept(node: fx.Node) -> bool:
    """Whether the user wants the operation to stay as it is, see :mod:`.keeping`."""
    return node.meta.get("kept", False)


def operator_of(node: fx.Node) -> str | None:
    """The name of the ATen operator that a node calls, without its overload; ``None`` for everything else."""
    return packet_name(node.target) if node.op == "call_function" else None


def operation(model: fx.GraphModule, node: fx.Node) -> Operation:
    """The row of the operation that ``node`` is, with what its arguments and the module's settings make of it."""
    module = module_of(model, node)
    if module is not None:
        return _of_module(module)
    if node.op != "call_function":
        return _ANALOGUE
    name = operator_of(node)
    row = OPERATORS.get(name, NORMALISATIONS.get(name, _ANALOGUE)) if name else FUNCTIONS.get(node.target, _ANALOGUE)
    return _with_arguments(node, name, row)


def _of_module(module: nn.Module) -> Operation:
    if isinstance(module, tuple(LEAVES)):  # a subclass of a known layer may do anything
        return _ANALOGUE
    row = next((MODULES[cls] for cls in type(module).__mro__ if cls in MODULES), _ANALOGUE)
    if isinstance(module, dropout._DropoutNd) and module.training:
        return _ANALOGUE
    if isinstance(module, batchnorm._BatchNorm) and (module.running_mean is None or module.training):
        return _ANALOGUE
    if row.is_max and module.return_indices:
        return _ANALOGUE
    if row.spatial_axes == 1:
        return replace(row, spatial_axes=int(type(module).__name__[-2]))  # MaxPool2d
    return row


def _with_arguments(node: fx.Node, name: str | None, row: Operation) -> Operation:
    if name in ("pad", "constant_pad_nd"):
        value = node.args[3] if len(node.args) > 3 else node.kwargs.get("value")
        value = node.args[2] if name == "constant_pad_nd" and len(node.args) > 2 else value
        return replace(row, moves=False) if value else row
    if (name == "div" and "rounding_mode" in node.kwargs) or is_cast_to_integers(node):
        return _ANALOGUE
    return row


def is_cast_to_integers(node: fx.Node) -> bool:
    """Whether ``node`` casts to integers or bools, which rounds."""
    dtype = node.kwargs.get("dtype") if operator_of(node) == "_to_copy" else None
    return dtype is not None and not dtype.is_floating_point


def is_affine(model: fx.GraphModule, node: fx.Node, constants: Collection[fx.Node] = ()) -> bool:
    """
    :param model: a captured network in evaluation mode
    :param node: a node of its graph
    :param constants: nodes that are known to be the same whatever the network is shown, beside its parameters
    :return: whether the mean over time may be taken before the node instead of after it
    """
    if node.op == "get_attr":
        return True
    row = operation(model, node)
    if node.op == "call_module":
        return bool(row.affine)
    changing = _changing(model, node, constants)
    name = operator_of(node)
    if name in ("where", "masked_fill"):
        return node.args[0 if name == "where" else 1] not in changing
    if name in _READS_AT:
        return all(n is node.args[0] for n in changing)
    if name in _WRITES_AT:
        where: list[fx.Node] = []
        fx.node.map_arg(node.args[_WRITES_AT[name]], where.append)
        return not any(n in changing for n in where)
    if name == "div" and node.args[0] not in changing:
        return not changing
    return len(changing) <= 1 if row.affine == ONE else row.affine == ALL


def _changing(model: fx.GraphModule, node: fx.Node, constants: Collection[fx.Node]) -> list[fx.Node]:
    inputs: list[fx.Node] = []  # all occurrences, because x * x is not affine in x
    fx.node.map_arg((node.args, node.kwargs), inputs.append)
    return [n for n in inputs if n.op != "get_attr" and n not in constants and not is_size(model, n)]


def factors(model: fx.GraphModule, node: fx.Node, constants: Collection[fx.Node] = ()) -> tuple[fx.Node, ...]:
    """As :func:`is_affine`. :return: the two changing values of which ``node`` is a product; empty if it is none"""
    changing = _changing(model, node, constants) if operator_of(node) in _BILINEAR else []
    return tuple(changing) if len(changing) == 2 else ()


def is_size(model: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a node depends on the form of the network's inputs alone."""
    if node.op in ("placeholder", "output", "call_module"):
        return False
    if operation(model, node).shape_only:
        return True
    sources = node.all_input_nodes
    return bool(sources) and "shape" not in node.meta and all(is_size(model, n) for n in sources)


def is_max_pool(model: fx.GraphModule, node: fx.Node) -> bool:
    """Whether ``node`` is max pooling."""
    return operation(model, node).is_max


def is_addition(node: fx.Node) -> bool:
    """Whether ``node`` adds two different values, neither of which is scaled."""
    if operator_of(node) != "add" or len(node.args) != 2:
        return False
    return all(isinstance(n, fx.Node) for n in node.args) and node.args[0] is not node.args[1]


def is_negation(node: fx.Node) -> bool:
    """Whether ``node`` is ``-x``."""
    return operator_of(node) == "neg"


def affine_tail(model: fx.GraphModule) -> set[fx.Node]:
    """The nodes from which only affine operations, and max pooling, which is lossless on trains, lead to the output."""
    tail: set[fx.Node] = set()
    for node in reversed(model.graph.nodes):
        passes_trains = is_affine(model, node) or is_max_pool(model, node)
        if passes_trains and node.users and all(user in tail or user.op == "output" for user in node.users):
            tail.add(node)
    return tail
