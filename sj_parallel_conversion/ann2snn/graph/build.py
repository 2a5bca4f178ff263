"""From a captured program to a graph module of this package's own: constants folded, layers as modules again."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

from ...errors import ConversionError
from ...torch_compat import (
    HigherOrderOperator,
    UnknownSizeError,
    hint,
    is_random,
    module_stack,
    packet_name,
    qualified_name,
)
from .capture import Capture, CaptureError
from .constants import Constants
from .following import cast, construct
from .leaves import LeafCall, is_leaf_operator, operator_name, tensor_leaf
from .lifting import FIRST_OF_SEVERAL, lift
from .naming import Names, argument_name, first_name, innermost
from .plain import PlainGraph, leaves_of, map_leaves, put, varies
from .state import refuse_state

# They change neither values nor shapes; what reads them may read their input.
_NOTHING = {"clone", "alias", "contiguous", "lift_fresh_copy", "lift_fresh", "lift", "detach_copy", "positive"}
_DROPOUTS = {"dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout"}
_CHECKS = {"_assert_async", "_assert_scalar", "_assert_tensor_metadata", "sym_constrain_range"}
_CHECKS |= {"sym_constrain_range_for_size", "_functional_assert_async", "_functional_sym_constrain_range"}


def build(captured: Capture, names: Names) -> PlainGraph:
    """
    :param captured: what :func:`~.capture.capture` returned
    :param names: hands out the names of the modules
    :return: the same network. Layers are modules under the names that they have in the model, one for each call;
        everything else is a function
    :raises ConversionError: if the model changes its own buffers and reads what it has written
    """
    return _Builder(captured, names).run()


class _Builder:
    """
    Walks over the program. ``values`` holds for each of its nodes a node of the new graph, or a constant: a tensor, or
    what is no tensor.
    """

    def __init__(self, captured: Capture, names: Names) -> None:
        self.captured = captured
        self.names = names
        self.graph, self.net = fx.Graph(), nn.Module()
        self.values: dict[fx.Node, object] = {}
        self.constants = Constants(captured, self.graph, self.net)

    def run(self) -> PlainGraph:
        """:return: the network"""
        for node in self.captured.program.graph.nodes:
            node.target = first_name(node)
            if node.op == "placeholder":
                self.values[node] = self._placeholder(node)
            elif node.op == "output":
                self._output(node)
            else:
                self.values[node] = self._visit(node)
        self.constants.store()
        model = PlainGraph(self.net, self.graph)
        model.graph.eliminate_dead_code()
        model.graph.lint()
        model.delete_all_unused_submodules()
        model.recompile()
        return model.eval()

    # inputs and outputs

    def _placeholder(self, node: fx.Node) -> object:
        if node.name in self.constants.inputs:
            return self.constants.inputs[node.name]
        user = list(self.captured.program.graph_signature.user_inputs)
        name = self.captured.sizes.names[user.index(node.name)]
        taken = {n.target for n in self.graph.nodes if n.op == "placeholder"}
        new = self.graph.placeholder(argument_name(name, taken))
        self._note(new, node)
        return new

    def _output(self, node: fx.Node) -> None:
        signature = self.captured.program.graph_signature
        written = [o for o in node.args[0] if isinstance(o, fx.Node) and o.name in signature.buffers_to_mutate]
        wanted = [o for o in node.args[0] if not isinstance(o, fx.Node) or self._is_user_output(o)]
        refuse_state(self.captured, written, wanted)
        self.graph.output(tuple(self.constants.as_node(self._value(o), "output") for o in wanted))

    def _is_user_output(self, node: fx.Node) -> bool:
        signature = self.captured.program.graph_signature
        return node.name in signature.user_outputs

    # operations

    def _visit(self, node: fx.Node) -> object:
        name = operator_name(node.target)
        if name in _CHECKS:
            return None
        if node.op == "get_attr" or (name is None and isinstance(node.target, HigherOrderOperator)):
            raise ConversionError(f"{node.target} cannot be converted: it is an operator of control flow")
        args, kwargs = self._arguments(node)
        if is_leaf_operator(node.target):
            return self._leaf(node, self.captured.calls[args[1]], args[0])
        if name in _NOTHING or (name in _DROPOUTS and args[2] is False):
            return args[0]
        if not varies((args, kwargs)) and not is_random(node.target):
            return self._folded(node, args, kwargs)
        lifted = self._lifted(node, name, args, kwargs)
        return self._call(node, name, args, kwargs) if lifted is None else lifted

    def _arguments(self, node: fx.Node) -> tuple[tuple[Any, ...], dict[str, object]]:
        return map_leaves((node.args, node.kwargs), self._value)

    def _value(self, value: object) -> object:
        return self.values[value] if isinstance(value, fx.Node) else value

    def _folded(self, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, object]) -> object:
        with torch.no_grad():
            result = node.target(*args, **kwargs)
        sources = leaves_of((args, kwargs))
        trained = any(isinstance(t, Tensor) and t.requires_grad for t in sources)
        for t in leaves_of(result):
            if isinstance(t, Tensor):
                self.constants.keep(t)
                if trained and t.is_floating_point() and t.is_leaf:
                    t.requires_grad_()
        return result

    def _lifted(self, node: fx.Node, name: str | None, args: tuple[Any, ...], kwargs: dict[str, object]) -> object:
        if name is None or (name in FIRST_OF_SEVERAL and not _reads_first_alone(node)):
            return None
        schema = node.target._schema.arguments
        bound = {a.name: a.default_value for a in schema if a.has_default_value()}
        bound |= dict(zip((a.name for a in schema), args, strict=False)) | kwargs
        lifted = lift(name, bound)
        if lifted is None:
            return None
        module, x = lifted
        weights = [bound.get(key) for key in ("weight", "mat2", "other", "bias")]
        weight = next(filter(None, (self.constants.original.get(id(w)) for w in weights)), None)
        call = self._module(node, module, self.names.of_layer(node, name, weight), (x,), {})
        return (call,) if name in FIRST_OF_SEVERAL else call

    def _leaf(self, node: fx.Node, call: LeafCall, tensors: list[object]) -> list[fx.Node]:
        nodes = [self.constants.as_node(t, "input") for t in tensors]
        args, kwargs = call.arguments(nodes)
        kind = type(call.module).__name__.lower()
        name = self.names.free(call.name) if call.name else self.names.of_function(node, kind)
        module = self._module(node, call.module, name, args, kwargs)
        if call.returns_tensor:
            self._note(module, next(iter(node.users), node))
            return [module]
        found = []
        for i in range(sum(call.is_output_tensor)):
            leaf = self.graph.call_function(tensor_leaf, (module, i))
            self._note(leaf, next((u for u in node.users if u.args[1] == i), node))
            found.append(leaf)
        return found

    def _module(
        self, node: fx.Node, module: nn.Module, name: str, args: tuple[Any, ...], kwargs: dict[str, object]
    ) -> fx.Node:
        _remove_hooks(module)
        put(self.net, name, module)
        call = self.graph.call_module(name, args, kwargs)
        self._note(call, _first_read(node) if packet_name(node.target) in FIRST_OF_SEVERAL else node)
        return call

    def _call(self, node: fx.Node, name: str | None, args: tuple[Any, ...], kwargs: dict[str, object]) -> object:
        target: Callable[..., Any] = node.target
        if target is operator.getitem and not isinstance(args[0], fx.Node):
            # of a leaf or a lifted layer, which lacks what nobody reads
            return args[0][args[1]] if node.users else None
        if name in ("_to_copy", "to"):
            target, args, kwargs = self._cast(node, args, kwargs)
            if target is None:
                return args[0]
        elif "device" in kwargs and not _is_made_like_another(node):
            kept = {key: value for key, value in kwargs.items() if key not in ("device", "pin_memory", "layout")}
            floating = self.constants.follows(node.meta["val"].dtype)
            op_name = (qualified_name(target) or "").removeprefix("aten::")
            target, args, kwargs = construct, (self.constants.reference_node(), op_name, floating, *args), kept
        elif "device" in kwargs:
            kwargs = {key: value for key, value in kwargs.items() if key not in ("device", "pin_memory", "layout")}
        args, kwargs = map_leaves((args, kwargs), lambda value: self.constants.as_node(value, node.name))
        if name in ("add", "sub") and kwargs.get("alpha", 1) != 1 and isinstance(args[1], fx.Node):
            args, kwargs = (args[0], self._times(args[1], kwargs["alpha"])), {}
        new = self.graph.create_node("call_function", target, args, kwargs, name)
        self._note(new, node)
        return new

    def _times(self, x: fx.Node, factor: object) -> fx.Node:
        """A sum whose second summand is scaled becomes a plain sum."""
        new = self.graph.call_function(torch.ops.aten.mul.Tensor, (x, factor))
        new.meta.update(x.meta)
        return new

    def _cast(self, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, object]) -> tuple[Any, ...]:
        before, after = node.args[0].meta["val"].dtype, node.meta["val"].dtype
        if before == after:
            return None, args, {}
        if self.constants.follows(after) and not before.is_floating_point:
            return cast, (self.constants.reference_node(), args[0]), {}
        return torch.ops.aten._to_copy.default, args[:1], {"dtype": after}

    def _note(self, new: fx.Node, node: fx.Node) -> None:
        new.meta["path"] = innermost(module_stack(node))
        value = node.meta.get("val")
        if isinstance(value, Tensor):
            try:
                new.meta["shape"] = tuple(hint(size) for size in value.shape)
            except UnknownSizeError as error:
                where = f"{new.meta['path'] or type(self.captured.model).__name__}"
                raise CaptureError(
                    f"{type(self.captured.model).__name__} runs on the calibration data, but cannot be converted as a "
                    f"whole: {packet_name(node.target)} in {where} makes a tensor, and {error}"
                ) from error
            new.meta["is_floating_point"] = value.is_floating_point()


def _remove_hooks(module: nn.Module) -> None:
    # what they do is in the graph
    for part in module.modules():
        part._forward_hooks.clear()
        part._forward_pre_hooks.clear()


def _is_made_like_another(node: fx.Node) -> bool:
    """Whether the tensor that a constructor makes is like another, as those of ``zeros_like`` and ``new_ones``."""
    return any(isinstance(n.meta.get("val"), Tensor) for n in node.all_input_nodes)


def _reads_first_alone(node: fx.Node) -> bool:
    return all(user.target is operator.getitem and (user.args[1] == 0 or not user.users) for user in node.users)


def _first_read(node: fx.Node) -> fx.Node:
    return next((user for user in node.users if user.args[1] == 0), node)
