"""
Modules and functions that stay whole: while a model is captured, they are one operator of the graph each.

The operator has no values and no gradient. It is there for the capture alone: in the graph that comes out, the module
is called again.
"""

from __future__ import annotations

import copy
import functools
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from inspect import getattr_static
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from ...torch_compat import hint, packet_name, real_tensors, run_on_fakes, tree_leaves
from ..data.structure import Structure, flatten, of_a_leaf
from . import max_pool1d
from .known_values import KnownValues
from .long_sizes import check_sizes
from .registry import LEAVES, OWN_FUNCTIONS, FunctionActivation

# As modules they wake up again when the network is trained.
_DROPOUTS: dict[Callable[..., Any], Callable[[float], nn.Module]] = {
    F.dropout: nn.Dropout, F.dropout1d: nn.Dropout1d, F.dropout2d: nn.Dropout2d, F.dropout3d: nn.Dropout3d,
    F.alpha_dropout: nn.AlphaDropout, F.feature_alpha_dropout: nn.FeatureAlphaDropout,
}  # fmt: skip


_DATA = getattr_static(Tensor, "data").__get__


@dataclass
class LeafCall:
    """
    One call of a leaf while a model was captured.

    :param module: what is called, a copy with values
    :param name: its name in the model; ``None`` for a function
    :param leaves: its arguments, flat, with ``None`` in the place of each tensor
    :param is_tensor: which of them are tensors
    :param structure: of ``(args, kwargs)``
    :param output_structure: of what it returns
    :param output_leaves: its leaves, with ``None`` in the place of each tensor
    :param is_output_tensor: which of them are tensors
    :param returns_tensor: whether it returns a tensor alone
    """

    module: nn.Module
    name: str | None
    leaves: list[object]
    is_tensor: list[bool]
    structure: Structure
    output_structure: Structure = field(default_factory=of_a_leaf)
    output_leaves: list[object] = field(default_factory=list)
    is_output_tensor: list[bool] = field(default_factory=list)
    returns_tensor: bool = False

    def arguments(self, tensors: Sequence[object]) -> tuple[tuple[Any, ...], dict[str, object]]:
        """The arguments of the call, with ``tensors`` in their places."""
        rest = iter(tensors)
        leaves = [next(rest) if t else leaf for leaf, t in zip(self.leaves, self.is_tensor, strict=True)]
        return self.structure.unflatten(leaves)


calls: dict[int, LeafCall] = {}  # of the capture that runs now; captures do not overlap


def _define_operator() -> torch.library.Library:
    # A second import of the package must not meet the operator of the first, which reads the calls of the first.
    namespace, k = "sj_parallel_conversion", 0
    while hasattr(getattr(torch.ops, namespace), "leaf"):
        k += 1
        namespace = f"sj_parallel_conversion_{k}"
    library = torch.library.Library(namespace, "DEF")
    library.define("leaf(Tensor[] tensors, int call) -> Tensor[]")
    torch.library.register_fake(f"{namespace}::leaf", _run_fake, lib=library)
    return library


def _run_fake(tensors: list[Tensor], number: int) -> list[Tensor]:
    call = calls[number]
    output = _output_without_values(call, tensors)
    call.returns_tensor = isinstance(output, Tensor)
    leaves, call.output_structure = flatten(output)
    call.output_leaves = [None if isinstance(y, Tensor) else y for y in leaves]
    call.is_output_tensor = [isinstance(y, Tensor) for y in leaves]
    return [torch.empty_like(y) for y in leaves if isinstance(y, Tensor)]  # an operator may not return its input


def _output_without_values(call: LeafCall, tensors: list[Tensor]) -> object:
    args, kwargs = call.arguments(tensors)
    try:
        return run_on_fakes(call.module, tensors, args, kwargs)
    except Exception:
        return _shaped_like_a_run(call, tensors)


def _shaped_like_a_run(call: LeafCall, tensors: list[Tensor]) -> object:
    """For a leaf that needs values: a run on zeros shows the shapes. A first axis as long as the input's is free."""
    sizes = [[hint(size) for size in x.shape] for x in tensors]
    with real_tensors():
        zeros = [torch.zeros(size, dtype=x.dtype, device=x.device) for size, x in zip(sizes, tensors, strict=True)]
        args, kwargs = call.arguments(zeros)
        leaves, structure = flatten(call.module(*args, **kwargs))
        shapes: list[Any] = [(list(y.shape), y.dtype) if isinstance(y, Tensor) else y for y in leaves]
    first, batch = (tensors[0].shape[:1], sizes[0][:1]) if tensors else ((), [])
    found = []
    for y, shape in zip(leaves, shapes, strict=True):
        if isinstance(y, Tensor):
            size, dtype = shape
            size = [*first, *size[1:]] if size[:1] == batch else size
            y = tensors[0].new_empty(size, dtype=dtype)
        found.append(y)
    return structure.unflatten(found)


_library = _define_operator()
OPERATOR = getattr(torch.ops, _library.ns).leaf.default
_MAX_POOL_1D = max_pool1d.define(_library)


def is_leaf_operator(target: object) -> bool:
    """Whether a function of a captured graph is the operator of leaves."""
    return target is OPERATOR


def operator_name(target: object) -> str | None:
    """The name of an ATen operator, or of one that stands for it, without its overload; ``None`` for another."""
    return "max_pool1d" if target is _MAX_POOL_1D else packet_name(target)


def tensor_leaf(value: object, index: int) -> Tensor:
    """The tensor with this number among those of what a leaf returned."""
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)][index]


@contextmanager
def whole_leaves(root: nn.Module, limit_sizes: bool = True) -> Iterator[KnownValues]:
    """
    Within it, this thread's calls of leaves become operators.

    :param root: a copy of a model; the ``forward`` of its leaves is replaced
    :param limit_sizes: whether sizes with long expressions are refused, see :mod:`.long_sizes`
    :return: the values of its buffers, which have to meet the model when a capture begins
    """
    inside: list[str] = []
    kinds: tuple[type[nn.Module], ...] = tuple(LEAVES)
    for name, module in root.named_modules():
        if any(name.startswith(f"{outer}.") for outer in inside) or not isinstance(module, kinds):
            continue
        inside.append(name)
        module.forward = functools.partial(_call, copy.deepcopy(module).eval(), name)
    with ExitStack() as stack:
        stack.callback(calls.clear)
        stack.enter_context(_functions_kept_whole(root))
        values = KnownValues(root)
        stack.enter_context(_Marks(values, limit_sizes))
        yield values


def _call(module: nn.Module, name: str | None, *args: object, **kwargs: object) -> Any:
    leaves, structure = flatten((args, kwargs))
    is_tensor = [isinstance(leaf, Tensor) for leaf in leaves]
    constants = [None if t else leaf for leaf, t in zip(leaves, is_tensor, strict=True)]
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    number = len(calls)
    calls[number] = LeafCall(module, name, constants, is_tensor, structure)
    found = iter(OPERATOR(tensors, number))
    call = calls[number]
    pairs = zip(call.output_leaves, call.is_output_tensor, strict=True)
    return call.output_structure.unflatten([next(found) if is_tensor else leaf for leaf, is_tensor in pairs])


class _Marks(TorchFunctionMode):
    """Makes operators of dropouts that are switched off, and of registered functions of torch; reads buffers."""

    def __init__(self, values: KnownValues, limit_sizes: bool) -> None:
        super().__init__()
        self._values, self._limit_sizes = values, limit_sizes

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> object:
        kwargs = kwargs or {}
        if func == _DATA:  # of which a capture makes a constant
            func = Tensor.detach
        if func in _DROPOUTS:
            arguments = dict(zip(("input", "p", "training"), args, strict=False)) | kwargs
            if not arguments.get("training", func is not F.alpha_dropout) and arguments.get("p", 0.5) > 0:
                return _call(_DROPOUTS[func](arguments.get("p", 0.5)).eval(), None, arguments["input"])
        if func in OWN_FUNCTIONS and not any(isinstance(leaf, Tensor) for leaf in tree_leaves((args[1:], kwargs))):
            return _call_function(func, *args, **kwargs)
        pool = max_pool1d.settings(args, kwargs) if func in max_pool1d.SPELLINGS else None
        if pool is not None:
            func, args, kwargs = _MAX_POOL_1D, pool, {}
        result = self._values.call(func, args, kwargs)
        if self._limit_sizes:
            check_sizes(result)
        return result


def _call_function(function: Callable[..., Any], x: Tensor, *args: object, **kwargs: object) -> Tensor:
    bounds, name = OWN_FUNCTIONS[function], function.__name__
    if getattr(Tensor, name, None) is function:  # a method, which is the same as a function of torch
        function = getattr(torch, name)
    return _call(FunctionActivation(function, bounds, *args, **kwargs), None, x)


@contextmanager
def _functions_kept_whole(root: nn.Module) -> Iterator[None]:
    """Registered Python functions become one operator, wherever a file or a module of ``root`` has them."""
    wrapped = {f: _as_operator(f) for f in OWN_FUNCTIONS if hasattr(f, "__code__")}
    places: list[tuple[dict[str, object], str, Any]] = []
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


def _is_key(value: object, wrapped: dict[Callable[..., Any], Callable[..., Any]]) -> bool:
    return hasattr(type(value), "__code__") and value in wrapped


def _as_operator(function: Callable[..., Any]) -> Callable[..., Any]:
    thread = threading.get_ident()

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> object:
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        one_input = len(tensors) == 1 and args and args[0] is tensors[0]
        # the model of another thread calls it as it is
        if threading.get_ident() != thread or not one_input:
            return function(*args, **kwargs)
        return _call_function(function, *args, **kwargs)

    return call
