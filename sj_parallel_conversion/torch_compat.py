"""The only file that touches what torch does not promise to keep."""

from __future__ import annotations

import functools
import logging
import operator
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from types import CodeType
from typing import Any

import torch
from torch import Tensor, fx
from torch._compile import _disable_dynamo
from torch._ops import HigherOrderOperator as HigherOrderOperator
from torch.export import Dim, ExportedProgram
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import disable_proxy_modes_tracing
from torch.utils._python_dispatch import TorchDispatchMode as TorchDispatchMode
from torch.utils._pytree import TreeSpec as TreeSpec
from torch.utils._pytree import tree_flatten as tree_flatten
from torch.utils._pytree import tree_leaves as tree_leaves
from torch.utils._pytree import tree_map as tree_map
from torch.utils._pytree import tree_map_only as tree_map_only
from torch.utils._pytree import tree_unflatten as tree_unflatten

from .torch_inplace import made_functional, read_what_is_copied

FREE = Dim.AUTO  # a size that torch.export finds out about by itself
check_at_run_time = torch._assert  # a graph can hold it, and is pickled with it
innermost_function_mode = torch.overrides._get_current_function_mode
LINEAR_OF_ATTENTION = torch.nn.modules.linear.NonDynamicallyQuantizableLinear  # the last of nn.MultiheadAttention
CALL_OF_A_MODULE: CodeType = torch.nn.Module._call_impl.__code__  # runs its hooks and its forward


def export(model: torch.nn.Module, tensors: tuple[Tensor, ...], free: tuple[dict[int, object], ...]) -> ExportedProgram:
    """
    :param model: its ``forward`` takes tensors alone, as ``*tensors``, and returns a tuple of them
    :param tensors: an example
    :param free: for each tensor, the axes whose sizes may be free
    :return: what it computes, on ATen operators, none of them in place
    """
    # Without gradients, no_grad regions are nothing special.
    with torch.no_grad(), _without_logs(), warnings.catch_warnings(), _patched():
        # What the model warns of has been seen when it ran. What torch warns of is checked afterwards: the program has
        # to give what the model gives.
        warnings.simplefilter("ignore")
        program = torch.export.export(model, tensors, dynamic_shapes=(free,), strict=False)
        # To make it functional takes twice as long as the capture.
        program = program if made_functional(program.graph) else program.run_decompositions({})
        read_what_is_copied(program.graph)
        return program


def axes_that_stay_free(
    module: torch.nn.Module, tensors: tuple[Tensor, ...], free: tuple[Mapping[int, object], ...]
) -> list[list[int]]:
    """
    :param module: its ``forward`` takes tensors alone
    :param tensors: an example
    :param free: for each tensor, the axes whose sizes may be free
    :return: for each tensor those of the axes whose size the module does not fix
    """
    with torch.no_grad(), _without_logs(), _patched():
        dims = tuple(dict.fromkeys(axes, FREE) for axes in free)
        program = torch.export.export(module, tensors, dynamic_shapes=dims, strict=False)
    user = set(program.graph_signature.user_inputs)
    shapes = [n.meta["val"].shape for n in program.graph.nodes if n.op == "placeholder" and n.name in user]
    return [
        [axis for axis in axes if getattr(expression(shape[axis]), "free_symbols", ())]
        for shape, axes in zip(shapes, free, strict=True)
    ]


# One is slow where somebody reads it, the others print captures that fail, and that are tried in another way.
_LOGS = ("torch.__trace", "torch._subclasses", "torch.fx", "torch.export", "torch._export", "torch._functorch")


@contextmanager
def _without_logs() -> Iterator[None]:
    names = [name for name in logging.root.manager.loggerDict if name.startswith(_LOGS)]
    logs = [log for log in map(logging.getLogger, names) if not log.disabled and "TORCH_TRACE" not in os.environ]
    try:
        for log in logs:
            log.disabled = True
        yield
    finally:
        for log in logs:
            log.disabled = False


@contextmanager
def _patched() -> Iterator[None]:
    """
    Within it, two functions of torch are others.

    - Pooling does not fix whether a size is a multiple of its stride, as torch 2.6 does without need.
    - Conditions on sizes are not solved. The solution is for messages about sizes that a caller has named, and here
      none has a name. It costs time, and it fails where a pool is as wide as a map.
    """
    from torch.fx.experimental.symbolic_shapes import DimConstraints  # brings sympy: a second, at import

    places = [(torch._meta_registrations, "div_rtn", operator.floordiv), (DimConstraints, "solve", lambda self: None)]
    before = [getattr(owner, name) for owner, name, _ in places]
    try:
        for owner, name, function in places:
            setattr(owner, name, function)
        yield
    finally:
        for (owner, name, _), function in zip(places, before, strict=True):
            setattr(owner, name, function)


def size_conditions(program: ExportedProgram) -> list[object]:
    """What the capture took for granted about sizes: expressions of sympy, all true for the example."""
    for node in program.graph.nodes:
        for size in getattr(node.meta.get("val"), "shape", ()):
            if isinstance(size, torch.SymInt):
                return [c for c in _conditions_of(size.node.shape_env) if not _is_about_indices(c)]
    return []


def _conditions_of(environment: Any) -> list[object]:
    # What torch 2.6 checks for an operation, as the sizes of a matrix product, is apart from its guards.
    checks = [check for checks in environment.deferred_runtime_asserts.values() for check in checks]
    return [condition.expr for condition in (*environment.guards, *checks)]


def _is_about_indices(condition: object) -> bool:
    """Whether a condition is that a tensor can be indexed with integers of some width, which changes no value."""
    sides = getattr(condition, "args", ())
    return any(getattr(side, "is_Integer", False) and int(side) in (2**31 - 1, 2**63 - 1) for side in sides)


def expression(size: int | torch.SymInt) -> object:
    """A size as a number, or as an expression of sympy."""
    return size.node.expr if isinstance(size, torch.SymInt) else size


def hint(size: int | torch.SymInt) -> int:
    """
    The value that a size had while the model was captured.

    :raises UnknownSizeError: if it depends on values, as the number of samples that a mask chooses
    """
    if not isinstance(size, torch.SymInt):
        return int(size)
    if size.node.hint is None:
        raise UnknownSizeError("its size depends on the values of tensors")
    return int(size.node.hint)


class UnknownSizeError(ValueError):
    """A size that is not known while a model is captured."""


def run_on_fakes(
    module: torch.nn.Module, fakes: list[Tensor], args: tuple[Any, ...], kwargs: dict[str, object]
) -> object:
    """
    Run a module on tensors without values.

    :param module: with parameters that have values
    :param fakes: the tensors without values among its arguments
    :param args: its arguments
    :param kwargs: the same, by name
    :return: its output, without values
    """
    mode = next((x.fake_mode for x in fakes if isinstance(x, torch._subclasses.FakeTensor)), None)
    if mode is None:
        return module(*args, **kwargs)
    own = [*module.named_parameters(), *module.named_buffers()]
    fake: dict[str, Tensor] = {name: mode.from_tensor(value.detach(), static_shapes=True) for name, value in own}
    # sizes and numbers that depend on values are no matter of the capture, which asks where they have gone
    inner = nullcontext() if mode.shape_env is None else mode.shape_env.ignore_fresh_unbacked_symbols()
    with inner:
        return functional_call(module, fake, args, kwargs)


class QuietError(Exception):
    """An error inside a capture, to which torch cannot attach the graph so far: it would print that."""

    @property
    def partial_fx_graph(self) -> object:
        """Never there."""
        raise AttributeError("partial_fx_graph")

    @partial_fx_graph.setter
    def partial_fx_graph(self, graph: object) -> None:
        """Not kept."""


def is_about_values(error: Exception) -> bool:
    """Whether a capture failed because the model reads the value of a tensor that has none."""
    from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode  # brings sympy

    of_fakes = torch._subclasses.fake_tensor.DataDependentOutputException
    return isinstance(error, (GuardOnDataDependentSymNode, of_fakes))


@contextmanager
def real_tensors() -> Iterator[None]:
    """Within it, tensors have values although a capture runs."""
    with torch._subclasses.fake_tensor.unset_fake_temporarily(), disable_proxy_modes_tracing():
        yield


def forget_compilation(module: torch.nn.Module) -> None:
    """Undo ``module.compile()`` in place: the capture would compile it again."""
    module._compiled_call_impl = None


def not_for_a_scalar(saved: Tensor, own: Tensor) -> Tensor:
    """
    Make ``load_state_dict`` refuse several values for a scalar. Torch 2.6 takes the first of them.

    :param saved: of a checkpoint
    :param own: the parameter that it is for
    :return: ``saved``, in a shape that is refused where it has to be
    """
    return saved.unsqueeze(0) if own.dim() == 0 and saved.dim() == 1 and len(saved) > 1 else saved


@contextmanager
def attention_without_fastpath() -> Iterator[None]:
    """Within it, torch's transformer layers run the operations that they stand for, and not one kernel."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def is_pointwise(target: object) -> bool:
    """Whether torch marks an operator as one that works on each value alone."""
    return isinstance(target, torch._ops.OpOverload) and torch.Tag.pointwise in target.tags


def is_random(target: object) -> bool:
    """Whether an operator draws random numbers."""
    return isinstance(target, torch._ops.OpOverload) and torch.Tag.nondeterministic_seeded in target.tags


def packet_name(target: object) -> str | None:
    """The name of an ATen operator without its overload, as ``"add"``; ``None`` for another function."""
    if not isinstance(target, torch._ops.OpOverload) or target.namespace != "aten":
        return None
    return target._schema.name.rpartition("::")[2]


def qualified_name(target: object) -> str | None:
    """The full name of an operator, as ``"aten::add.Tensor"``; ``None`` for another function."""
    return target.name() if isinstance(target, torch._ops.OpOverload) else None


def operator_named(name: str) -> object:
    """The operator that :func:`qualified_name` gave the name of."""
    namespace, _, rest = name.partition("::")
    packet, _, overload = rest.partition(".")
    return getattr(getattr(getattr(torch.ops, namespace), packet), overload or "default")


def module_stack(node: fx.Node) -> list[str]:
    """The modules that an operation of a captured graph stands in, outermost first, with ``@k`` for their k-th call."""
    return [f"{path}{key[key.rindex('@') :] if '@' in key else ''}" for key, (path, _) in _stack(node)]


def _stack(node: fx.Node) -> list[tuple[str, tuple[str, object]]]:
    return [(k, value) for k, value in node.meta.get("nn_module_stack", {}).items() if not k.startswith("_empty")]


def python_code(condition: object) -> str:
    """An expression of sympy as Python code, in which sizes have the names of their symbols."""
    from torch.utils._sympy.printers import PythonPrinter  # brings sympy

    return PythonPrinter().doprint(condition)


def symbols(condition: object) -> list[str]:
    """The names of the sizes in an expression of sympy."""
    return sorted(map(str, getattr(condition, "free_symbols", ())))


def never_compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """
    :param function: any function
    :return: the same, which torch.compile leaves alone with all that it calls. Without torch.compile it costs nothing
    """
    uncompiled = _disable_dynamo(function)

    @functools.wraps(function)
    def run(*args: object, **kwargs: object) -> object:
        return (uncompiled if "torch._dynamo" in sys.modules else function)(*args, **kwargs)

    return run
