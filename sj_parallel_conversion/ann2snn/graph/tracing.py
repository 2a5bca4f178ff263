"""Tracing a model into a graph of our own, with errors that point at the user's line."""

from __future__ import annotations

import functools
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from ...errors import ConversionError
from .registry import LEAVES, python_functions
from .source import plain_copy


class _Tracer(fx.Tracer):
    """Keeps this project's activations, and what users registered, whole; a plain tracer would look inside."""

    def is_leaf_module(self, module: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(module, tuple(LEAVES)) or super().is_leaf_module(module, module_qualified_name)

    def create_args_for_root(self, *args: object) -> tuple[object, list]:
        """Optional arguments get their defaults, without which ``if mask is not None`` cannot be traced."""
        forward, (root, *inputs) = super().create_args_for_root(*args)
        for i, optional in enumerate(inputs[1:], start=1):
            is_variadic = optional.node.target.startswith("*")
            if is_variadic or optional.node.args:
                default = {} if optional.node.target.startswith("**") else ()
                inputs[i] = default if is_variadic else optional.node.args[0]
                self.graph.erase_node(optional.node)
        return forward, [root, *inputs]


class _OwnTracer(_Tracer):
    def is_leaf_module(self, module: nn.Module, module_qualified_name: str) -> bool:
        return True


def trace_own(module: nn.Module) -> fx.GraphModule | None:
    """
    :param module: any module
    :return: the graph of its own ``forward``, with each submodule as one call, and the same submodules; ``None`` if it
        cannot be traced
    """
    try:
        graph = _OwnTracer().trace(module)
    except Exception:
        return None
    return fx.GraphModule(module, graph, class_name=type(module).__name__)


def trace(model: nn.Module, training: bool = False) -> fx.GraphModule:
    """
    :param model: any module; it is left as it was
    :param training: whether the graph of training mode is wanted
    :return: the graph of a :func:`~.source.plain_copy` without backward hooks; optional arguments of its ``forward``
        have their default values
    :raises ConversionError: if the model cannot be copied or traced; the message names the line of the model
    """
    root = plain_copy(model).train(training)
    _remove_backward_hooks(root)
    name = type(root).__name__
    tracer = _Tracer()
    try:
        with _functions_kept_whole(root):
            graph = tracer.trace(root)
    except Exception as error:
        raise ConversionError(
            f"torch.fx cannot trace {name}: {error}\n{_user_line(error)}"
            "Replace control flow that depends on tensor values or sizes by operations on tensors, or move it out of "
            "the model and convert the part that computes"
        ) from error
    return fx.GraphModule(root, graph).train(training)


def _remove_backward_hooks(model: nn.Module) -> None:
    """In place: they belong to the training of the user's model, and a calibration may ask for gradients as well."""
    for module in model.modules():
        module._backward_hooks.clear()
        module._backward_pre_hooks.clear()


@contextmanager
def _functions_kept_whole(root: nn.Module) -> Iterator[None]:
    """Registered functions become one node of the graph, wherever a file or a module of ``root`` has them."""
    wrapped = {f: _as_one_node(f) for f in python_functions()}
    places: list[tuple[dict[str, object], str, object]] = []
    if wrapped:
        for namespace in [vars(m) for m in (*list(sys.modules.values()), *root.modules()) if hasattr(m, "__dict__")]:
            places += [(namespace, name, f) for name, f in list(namespace.items()) if _is_key(f, wrapped)]
    try:
        for namespace, name, function in places:
            namespace[name] = wrapped[function]
        yield
    finally:
        for namespace, name, function in places:
            namespace[name] = function


def _is_key(value: object, wrapped: dict[Callable, Callable]) -> bool:
    return hasattr(type(value), "__code__") and value in wrapped


def _as_one_node(function: Callable) -> Callable:
    @functools.wraps(function)
    def call(*args: object, **kwargs: object) -> object:
        proxy = next((value for value in tree_leaves((args, kwargs)) if isinstance(value, fx.Proxy)), None)
        if proxy is None:
            return function(*args, **kwargs)
        return proxy.tracer.create_proxy("call_function", function, args, kwargs)

    return call


@torch.no_grad()
def check_outputs(ann: nn.Module, model: fx.GraphModule, x: Tensor) -> None:
    """
    :param ann: a module; it is left as it was
    :param model: its graph, on the device of ``x``
    :param x: a batch
    :raises ConversionError: if the two do not compute the same
    """
    eager = plain_copy(ann).eval().to(x.device)
    for y, traced in zip(tree_leaves(eager(x.clone())), tree_leaves(model(x)), strict=False):
        if not isinstance(y, Tensor) or not y.is_floating_point() or y.numel() == 0:
            continue
        error = (y - traced).abs().max() / y.abs().max().clamp_min(torch.finfo(y.dtype).tiny)
        if error > torch.finfo(y.dtype).eps ** 0.5:
            raise ConversionError(
                f"the graph that torch.fx made of {type(ann).__name__} computes something else than the model "
                f"(relative error {error:.1e}). Usual causes: an in-place operation (x += y, x.relu_()) on a tensor "
                "that is read again under another name or through a view, and values that change from call to call"
            )


def _user_line(error: Exception) -> str:
    """The innermost line of the traceback that belongs neither to torch nor to this package."""
    own = (f"{Path(torch.__file__).parent}{os.sep}", f"{Path(__file__).parents[2]}{os.sep}")
    libraries = (sys.prefix + "/lib/python", sys.base_prefix + "/lib/python")
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(own)]
    frames = [f for f in frames if not f.filename.startswith(libraries)] or frames
    return f'at {frames[-1].filename}, line {frames[-1].lineno}: {frames[-1].line}\n' if frames else ""
