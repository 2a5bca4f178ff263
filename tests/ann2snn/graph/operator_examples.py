"""Calls of ATen operators, at least one for each row of the table of operations."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, fx, nn

aten = torch.ops.aten
SHAPE = (2, 4, 6, 6)


class Varying:
    """In the arguments of a call: a value that depends on the network's input."""


X, Y = Varying(), Varying()


@dataclass
class Example:
    """
    :param target: the operator
    :param args: its arguments; tensors are constants
    :param kwargs: the same, by name
    :param shape: of the values that vary
    """

    target: object
    args: tuple
    kwargs: dict[str, object] = field(default_factory=dict)
    shape: tuple[int, ...] = SHAPE

    def graph(self) -> tuple[fx.GraphModule, fx.Node]:
        """A network that does nothing but this call."""
        graph, root = fx.Graph(), nn.Module()
        nodes = {value: graph.placeholder(name) for name, value in (("x", X), ("y", Y))}

        def as_node(value: object) -> object:
            if isinstance(value, Varying):
                return nodes[value]
            if isinstance(value, (list, tuple)):
                return type(value)(map(as_node, value))
            if not isinstance(value, Tensor):
                return value
            name = f"constant_{len(root._buffers)}"
            root.register_buffer(name, value)
            return graph.get_attr(name)

        args = as_node(self.args)
        node = graph.call_function(self.target, args, {key: as_node(value) for key, value in self.kwargs.items()})
        graph.output(node)
        for each in nodes.values():
            each.meta.update(shape=self.shape, is_floating_point=True)
        return fx.GraphModule(root, graph), node


def call(target: object, *args: object, shape: tuple[int, ...] = SHAPE, **kwargs: object) -> Example:
    return Example(target, args, kwargs, shape)


def some(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


INDEX, COLUMNS = torch.tensor([2, 0, 2]), torch.arange(6).flip(0).expand(SHAPE)
MASK = some(*SHAPE) > 0
VOLUME, LINE, MATRIX = (2, 4, 4, 4, 4), (2, 4, 6), (6, 6)

EXAMPLES: dict[str, list[Example]] = {
    # they move values
    "reshape": [call(aten.reshape.default, X, [2, -1])], "view": [call(aten.view.default, X, [8, 36])],
    "permute": [call(aten.permute.default, X, [0, 2, 3, 1])], "transpose": [call(aten.transpose.int, X, 1, 2)],
    "t": [call(aten.t.default, X, shape=MATRIX)], "squeeze": [call(aten.squeeze.dim, X, 1, shape=(2, 1, 3))],
    "unsqueeze": [call(aten.unsqueeze.default, X, 1)], "flatten": [call(aten.flatten.using_ints, X, 1)],
    "unflatten": [call(aten.unflatten.int, X, 1, [2, 2])], "expand": [call(aten.expand.default, X, [3, 2, 4, 6, 6])],
    "repeat": [call(aten.repeat.default, X, [1, 1, 2, 1])], "tile": [call(aten.tile.default, X, [1, 1, 2, 1])],
    "repeat_interleave": [call(aten.repeat_interleave.self_int, X, 2, 1)],
    "select": [call(aten.select.int, X, 1, 2)], "split": [call(aten.split.Tensor, X, 2, 1)],
    "split_with_sizes": [call(aten.split_with_sizes.default, X, [1, 3], 1)],
    "chunk": [call(aten.chunk.default, X, 2, 1)],
    "tensor_split": [call(aten.tensor_split.sections, X, 2, 1)], "unbind": [call(aten.unbind.int, X, 1)],
    "cat": [call(aten.cat.default, [X, Y], 1)], "stack": [call(aten.stack.default, [X, Y], 1)],
    "pixel_shuffle": [call(aten.pixel_shuffle.default, X, 2)],
    "pixel_unshuffle": [call(aten.pixel_unshuffle.default, X, 2)],
    "channel_shuffle": [call(aten.channel_shuffle.default, X, 2)], "movedim": [call(aten.movedim.int, X, 1, 3)],
    "im2col": [call(aten.im2col.default, X, [2, 2], [1, 1], [1, 1], [2, 2])],
    "diagonal": [call(aten.diagonal.default, X, 0, 2, 3)],
    "as_strided": [call(aten.as_strided.default, X, [2, 3], [144, 2], 1)],
    "unfold": [call(aten.unfold.default, X, 2, 3, 1)],
    "index": [call(aten.index.Tensor, X, [None, INDEX])],
    "index_select": [call(aten.index_select.default, X, 1, INDEX)],
    "gather": [call(aten.gather.default, X, 3, COLUMNS)],
    "take_along_dim": [call(aten.take_along_dim.default, X, COLUMNS, 3)],
    "column_stack": [call(aten.column_stack.default, [X, Y])], "hstack": [call(aten.hstack.default, [X, Y])],
    "vstack": [call(aten.vstack.default, [X, Y])], "expand_as": [call(aten.expand_as.default, X, some(3, *SHAPE))],
    "view_as": [call(aten.view_as.default, X, some(8, 36))], "numpy_T": [call(aten.numpy_T.default, X, shape=MATRIX)],
    "mT": [call(aten.mT.default, X)], "adjoint": [call(aten.adjoint.default, X)],
    "dstack": [call(aten.dstack.default, [X, Y])], "reshape_as": [call(aten.reshape_as.default, X, some(8, 36))],
    "broadcast_to": [call(aten.broadcast_to.default, X, [3, 2, 4, 6, 6])], "mH": [call(aten.mH.default, X)],
    "ravel": [call(aten.ravel.default, X)], "diag_embed": [call(aten.diag_embed.default, X)],
    **{f"atleast_{d}d": [call(getattr(aten, f"atleast_{d}d").default, X, shape=(3,))] for d in (1, 2, 3)},
    **{f"{axis}split": [call(getattr(aten, f"{axis}split").int, X, 2)] for axis in "hvd"},
    "rot90": [call(aten.rot90.default, X, 1, [2, 3])], "take": [call(aten.take.default, X, INDEX)],
    # and leave the axes
    "fliplr": [call(aten.fliplr.default, X, shape=(4, 4, 6))], "flipud": [call(aten.flipud.default, X)],
    "slice": [call(aten.slice.Tensor, X, 2, 1, 6, 2)], "narrow": [call(aten.narrow.default, X, 2, 1, 3)],
    "roll": [call(aten.roll.default, X, [1], [2])], "flip": [call(aten.flip.default, X, [3])],
    "detach": [call(aten.detach.default, X)],
    "pad": [call(aten.pad.default, X, [1, 1]), call(aten.pad.default, X, [1, 1, 1, 1], "reflect")],
    "constant_pad_nd": [call(aten.constant_pad_nd.default, X, [1, 0, 2, 1])],
    **{f"{kind}_pad{d}d": [call(getattr(aten, f"{kind}_pad{d}d").default, X, [1, 1] * d, shape=shape)]
       for kind in ("reflection", "replication") for d, shape in ((1, LINE), (2, SHAPE), (3, VOLUME))},
    "contiguous": [call(aten.contiguous.default, X)], "clone": [call(aten.clone.default, X)],
    # sums
    "add": [call(aten.add.Tensor, X, Y), call(aten.add.Tensor, X, Y, alpha=3), call(aten.add.Tensor, X, 2.5)],
    "sub": [call(aten.sub.Tensor, X, Y), call(aten.sub.Tensor, X, some(1, 1, 6, 6))],
    "rsub": [call(aten.rsub.Scalar, X, 1)], "neg": [call(aten.neg.default, X)],
    "cumsum": [call(aten.cumsum.default, X, 2)], "slice_scatter": [call(aten.slice_scatter.default, X, Y, 2)],
    "select_scatter": [call(aten.select_scatter.default, X, some(2, 4, 6), 2, 1)],
    "tril": [call(aten.tril.default, X)], "triu": [call(aten.triu.default, X, 1)],
    "copy": [call(aten.copy.default, some(*SHAPE), X)], "diff": [call(aten.diff.default, X, 1, 2)],
    "col2im": [call(aten.col2im.default, X, [3, 3], [2, 2], [1, 1], [0, 0], [1, 1], shape=(2, 8, 4))],
    "sum_to_size": [call(aten.sum_to_size.default, X, [1, 4, 6, 1])],
    "index_put": [call(aten.index_put.default, some(*SHAPE), [None, INDEX[:2]], Y, shape=(2, 2, 6, 6)),
                  call(aten.index_put.default, X, [INDEX[1:2]], some(4, 6, 6), True)],
    "index_add": [call(aten.index_add.default, X, 1, torch.tensor([2, 0, 2, 1]), Y)],
    "index_copy": [call(aten.index_copy.default, X, 1, torch.tensor([2, 0]), some(2, 2, 6, 6))],
    "scatter": [call(aten.scatter.src, X, 3, COLUMNS, Y)],
    "scatter_add": [call(aten.scatter_add.default, X, 3, COLUMNS, Y)],
    "where": [call(aten.where.self, MASK, X, some(1, 1, 1, 1))],
    "masked_fill": [call(aten.masked_fill.Scalar, X, MASK, 3.0)],
    "sum": [call(aten.sum.dim_IntList, X, [2, 3]), call(aten.sum.default, X)],
    "mean": [call(aten.mean.dim, X, [2, 3], True), call(aten.mean.default, X)],
    # products with constants
    "mul": [call(aten.mul.Tensor, X, some(1, 1, 6, 6)), call(aten.mul.Tensor, 3, X)],
    "div": [call(aten.div.Tensor, X, some(1, 1, 6, 6)), call(aten.div.Tensor, X, 3)],
    "matmul": [call(aten.matmul.default, X, some(6, 3)), call(aten.matmul.default, some(3, 6), X)],
    "mm": [call(aten.mm.default, X, some(6, 3), shape=MATRIX)],
    "bmm": [call(aten.bmm.default, X, some(2, 6, 3), shape=LINE)],
    "mv": [call(aten.mv.default, X, some(6), shape=MATRIX)], "dot": [call(aten.dot.default, X, some(6), shape=(6,))],
    "einsum": [call(aten.einsum.default, "nchw,wk->nkh", [X, some(6, 3)])],
    "linear": [call(aten.linear.default, X, some(5, 6), some(5)),
               call(aten.linear.default, some(5, 6), X, shape=MATRIX)],
    "addmm": [call(aten.addmm.default, some(3), X, some(6, 3), shape=MATRIX)],
    "baddbmm": [call(aten.baddbmm.default, some(2, 4, 3), X, some(2, 6, 3), shape=LINE)],
    "addmv": [call(aten.addmv.default, some(6), X, some(6), shape=MATRIX)],
    "inner": [call(aten.inner.default, X, some(3, 6))], "outer": [call(aten.outer.default, X, some(3), shape=(6,))],
    "kron": [call(aten.kron.default, X, some(2, 2), shape=MATRIX)],
    "bilinear": [call(aten.bilinear.default, X, some(6, 6), some(2, 6, 6), None, shape=MATRIX)],
    "convolution": [
        call(aten.convolution.default, X, some(3, 4, 3, 3), None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1)],
    "tensordot": [call(aten.tensordot.default, X, some(6, 3), [3], [0])],
    **{f"conv{d}d": [call(getattr(aten, f"conv{d}d").default, X, some(3, 4, *[3] * d), some(3), shape=shape)]
       for d, shape in ((1, LINE), (2, SHAPE), (3, VOLUME))},
    **{f"conv_transpose{d}d": [call(getattr(aten, f"conv_transpose{d}d").default if d == 1 else
                                    getattr(aten, f"conv_transpose{d}d").input, X, some(4, 3, *[3] * d), shape=shape)]
       for d, shape in ((1, LINE), (2, SHAPE), (3, VOLUME))},
    # pooling and resampling
    **{f"{kind}{d}d": [call(getattr(aten, f"{kind}{d}d").default, X, [2] * d, shape=shape)]
       for d, shape in ((1, LINE), (2, SHAPE), (3, VOLUME))
       for kind in ("avg_pool", "adaptive_avg_pool", "max_pool", *(("_adaptive_avg_pool",) if d > 1 else ()))},
    **{f"upsample_{kind}": [call(getattr(aten, f"upsample_{kind}").default, X, *arguments, shape=shape)]
       for kind, shape, arguments in (
           ("nearest1d", LINE, ([9],)), ("nearest2d", SHAPE, ([9, 8],)), ("nearest3d", VOLUME, ([6, 5, 4],)),
           ("linear1d", LINE, ([9], False)), ("bilinear2d", SHAPE, ([9, 8], True)),
           ("trilinear3d", VOLUME, ([6, 5, 4], False)), ("bicubic2d", SHAPE, ([9, 8], False)))},
    **{(exact := f"_upsample_nearest_exact{d}d"): [call(getattr(aten, exact).default, X, [5] * d, shape=s)]
       for d, s in ((1, LINE), (2, SHAPE), (3, VOLUME))},
    **{f"_upsample_{kind}2d_aa": [call(getattr(aten, f"_upsample_{kind}2d_aa").default, X, [3, 4], False)]
       for kind in ("bilinear", "bicubic")},
    "_to_copy": [call(aten._to_copy.default, X, dtype=torch.float32)],
    "type_as": [call(aten.type_as.default, X, some(3).float())],
    # they ask for the form alone
    "sym_size": [call(aten.sym_size.int, X, 2)], "sym_numel": [call(aten.sym_numel.default, X)],
    "sym_stride": [call(aten.sym_stride.int, X, 1)],
    "zeros_like": [call(aten.zeros_like.default, X)], "ones_like": [call(aten.ones_like.default, X)],
    "full_like": [call(aten.full_like.default, X, 3.0)], "empty_like": [],
    "new_zeros": [call(aten.new_zeros.default, X, [2, 3])], "new_ones": [call(aten.new_ones.default, X, [2, 3])],
    "new_full": [call(aten.new_full.default, X, [2, 3], 3.0)], "new_empty": [],
}  # fmt: skip

PRODUCTS = [
    call(aten.mul.Tensor, X, Y), call(aten.matmul.default, X, Y), call(aten.div.Tensor, X, Y),
    call(aten.linear.default, X, Y, shape=MATRIX), call(aten.einsum.default, "nchw,nchv->nwv", [X, Y]),
    call(aten.conv1d.default, X, Y, shape=LINE),
]  # fmt: skip
# Calls of which the mean over time may not be taken before.
NOT_AFFINE = [
    *PRODUCTS, call(aten.mul.Tensor, X, X), call(aten.div.Tensor, some(*SHAPE), X),
    call(aten.div.Tensor_mode, X, 0.3, rounding_mode="floor"), call(aten.abs.default, X), call(aten.relu.default, X),
    call(aten.softmax.int, X, 1), call(aten.amax.default, X, [1]), call(aten.exp.default, X),
    call(aten.pow.Tensor_Scalar, X, 2), call(aten.layer_norm.default, X, [6]), call(aten.max_pool2d.default, X, [2, 2]),
    call(aten.adaptive_max_pool2d.default, X, [2, 2]), call(aten.sort.default, X),
    call(aten.scaled_dot_product_attention.default, X, Y, Y), call(aten.cumprod.default, X, 1),
]  # fmt: skip
