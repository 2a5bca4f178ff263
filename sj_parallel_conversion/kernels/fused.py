"""From a node and its input to one launch, and to gradients."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..errors import ConfigError, DataError
from ..functional import Code
from ..parameters import along_channels
from . import launch

# torch's types and node.cu's; full_precision's rule: half precision computes in float32
STORED = {
    torch.float16: "float16",
    torch.bfloat16: "bfloat16",
    torch.float32: "float",
    torch.float64: "double",
}
EMITTED = STORED | {torch.int8: "int8", torch.uint8: "uint8"}
CODES = {"sorted": "Sorted", "binary": "Binary", "signed_digit": "SignedDigit"}
Affine = tuple[Tensor, Tensor | None, Tensor]  # v_threshold, psi, shift
BYTES_PER_LOAD = 16  # the widest that a thread does at once
WIDE_FROM = 2**31  # elements a step: indices need 64 bits, which take longer to divide


class HasForm(Protocol):
    """What says whether it has a closed form."""

    @property
    def closed_form(self) -> bool:
        """Whether the level is computed at once, and not by a loop over time."""


class Node(HasForm, Protocol):
    """What a kernel needs of a neuron; each of :class:`~sj_parallel_conversion.neuron.SpikingNode`'s is one."""

    T: int
    code: Code
    channel_dim: int
    signed: bool
    min_level: float
    folded_input: bool
    folded_output: bool
    v_threshold: Tensor
    shift: Tensor
    psi: Tensor | None
    amplitude: Tensor | None

    def parameters(self) -> Iterator[Tensor]:
        """All parameters."""


def check_closed_form(node: HasForm) -> None:
    """:raises ConfigError: if ``node`` runs a loop over time, which has no kernel"""
    if not node.closed_form:
        raise ConfigError(
            f"{type(node).__name__}: backend='cupy' has kernels for closed forms; serial=True, and a tau other than 2, "
            "run on backend='torch'"
        )


def spike_train(
    node: Node, x_seq: Tensor, torch_form: Callable[[Tensor], Tensor], dtype: torch.dtype | None = None
) -> Tensor:
    """
    :param node: a node in closed form
    :param x_seq: currents ``[T, N, ...]`` on a CUDA device; one step is read where it is expanded along time (stride 0)
    :param torch_form: the node's own form of the same function, for its gradient
    :param dtype: of the spikes: int8, uint8 (without negative spikes), or that of ``x_seq``, which ``None`` means; a
        train of integers has no gradient
    :return: spikes ``[T, N, ...]``, each step laid out as a step of ``x_seq``
    :raises DataError: if ``x_seq`` or the node is not on a CUDA device, or the dtype is not floating
    :raises ConfigError: if ``node`` is not in closed form
    """
    kernel = functools.partial(_emit_train, node, x_seq.dtype if dtype is None else dtype)
    return _KernelWithTorchGradient.apply(x_seq, kernel, torch_form, *_affine_parameters(node))


def decoded(node: Node, x: Tensor, torch_form: Callable[[Tensor], Tensor]) -> Tensor:
    """
    :param node: a node in closed form
    :param x: mean input ``[N, ...]`` on a CUDA device
    :param torch_form: the node's own form of the same function, for its gradient
    :return: what the level stands for, ``[N, ...]``, laid out as ``x``
    :raises DataError, ConfigError: as :func:`spike_train`
    """
    kernel = functools.partial(_emit_value, node)
    parameters = {id(p): p for p in (*_affine_parameters(node), _amplitude(node)) if p is not None}
    return _KernelWithTorchGradient.apply(x, kernel, torch_form, *parameters.values())


class _KernelWithTorchGradient(torch.autograd.Function):
    # Backward runs the torch form again, on the same values: its straight-through gradient, to the input and to the
    # parameters, is then the kernel's by construction. Only training pays for it.

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, kernel: Callable[..., Any], torch_form: Callable[..., Any], *parameters: Tensor
    ) -> Tensor:
        ctx.torch_form = torch_form
        ctx.save_for_backward(x, *parameters)
        return kernel(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """The gradient of the torch form."""
        x, *parameters = ctx.saved_tensors
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            y = ctx.torch_form(x)
        needs = [ctx.needs_input_grad[0], *ctx.needs_input_grad[3:]]
        wanted = [tensor for tensor, needed in zip((x, *parameters), needs, strict=True) if needed]
        grads = iter(torch.autograd.grad(y, wanted, grad))
        of_x, *of_parameters = (next(grads) if needed else None for needed in needs)
        return of_x, None, None, *of_parameters


def _emit_train(node: Node, dtype: torch.dtype, x_seq: Tensor) -> Tensor:
    x_seq = _readable(x_seq)
    step = x_seq[0]
    out = torch.empty_strided((node.T, *step.shape), (step.numel(), *step.stride()), dtype=dtype, device=x_seq.device)
    _launch("spike_train", node, x_seq, out, _affine(node))
    return out


def _emit_value(node: Node, x: Tensor) -> Tensor:
    x_seq = _readable(x.unsqueeze(0))
    out = torch.empty_strided(x.shape, x_seq[0].stride(), dtype=x.dtype, device=x.device)
    _launch("decoded_level", node, x_seq, out, _affine(node), _amplitude(node))
    return out


def _affine(node: Node) -> Affine | None:
    return None if node.folded_input else (node.v_threshold, node.psi, node.shift)


def _affine_parameters(node: Node) -> list[Tensor]:
    return [p for p in _affine(node) or () if p is not None]


def _amplitude(node: Node) -> Tensor | None:
    if node.folded_output:
        return None
    return node.v_threshold if node.amplitude is None else node.amplitude


def _readable(x_seq: Tensor) -> Tensor:
    """The steps that differ, each without gaps in memory, so that it can be read in the order in which it lies."""
    if x_seq.stride(0) == 0:
        x_seq = x_seq[:1]
    # For a tensor without gaps, and for no other, empty_like has the same strides.
    dense = torch.empty_like(x_seq[0], device="meta").stride() == x_seq[0].stride()
    return x_seq if dense else x_seq.contiguous()


def _launch(
    entry: str, node: Node, x_seq: Tensor, out: Tensor, affine: Affine | None, amplitude: Tensor | None = None
) -> None:
    """
    :param affine: ``v_threshold``, ``psi`` and ``shift``; ``None`` for currents that arrive in levels
    :param amplitude: what ``levels_per_threshold`` levels are worth; ``None`` for bare levels
    """
    step, size = x_seq[0], x_seq[0].numel()
    _check(node, x_seq)
    n = node.code.levels_per_threshold(node.T)
    worth = _along(node, amplitude, step)
    if worth is not None and n != 1:
        worth = worth / n  # by torch, whose rounding of a division by a number depends on the device
    parameters = [*(_along(node, p, step) for p in affine or (None, None, None)), worth]
    if size == 0:
        return
    channel_wise = any(p is not None and p.numel() > 1 for p in parameters)
    compute = np.float64 if x_seq.dtype == torch.float64 else np.float32
    vector = _vector(x_seq, size)
    arguments = (
        np.int64(x_seq.data_ptr()),
        np.int64(x_seq.stride(0)),
        np.int32(len(x_seq)),
        np.int64(out.data_ptr()),
        np.int64(size),
        np.int32(node.T),
        np.int32(step.shape[node.channel_dim] if channel_wise else 1),
        np.int64(step.stride(node.channel_dim) if channel_wise else 1),
        *(number for p in parameters for number in _address_and_step(p)),
        compute(n),
        compute((1 if affine is None else n) / node.T),
        compute(node.min_level),
        compute(node.code.max_level(node.T)),
    )
    macros = _macros(x_seq.dtype, out.dtype, node.code, vector, wide=size >= WIDE_FROM)
    launch.launch(entry, macros, arguments, size // vector, x_seq.device)


def _check(node: Node, x_seq: Tensor) -> None:
    check_closed_form(node)
    owner = type(node).__name__
    if x_seq.dtype not in STORED:
        names = ", ".join(str(dtype) for dtype in STORED)
        raise DataError(f"{owner}(backend='cupy') takes {names}, got {x_seq.dtype}: convert it, or set backend='torch'")
    launch.check_device(owner, x_seq, list(node.parameters()))


def _along(node: Node, parameter: Tensor | None, step: Tensor) -> Tensor | None:
    if parameter is None:
        return None
    return along_channels(parameter, step, node.channel_dim, type(node).__name__).contiguous()


def _address_and_step(parameter: Tensor | None) -> tuple[np.int64, np.int32]:
    if parameter is None:
        return np.int64(0), np.int32(0)
    return np.int64(parameter.data_ptr()), np.int32(parameter.numel() > 1)


def _vector(x_seq: Tensor, size: int) -> int:
    """How many neighbours a thread can read at once: addresses must be multiples of what is read."""
    width, time_stride = BYTES_PER_LOAD // x_seq.element_size(), x_seq.stride(0) if len(x_seq) > 1 else 0
    while size % width or time_stride % width or x_seq.data_ptr() % (width * x_seq.element_size()):
        width //= 2
    return width


def _macros(stored: torch.dtype, emitted: torch.dtype, code: Code, vector: int, wide: bool) -> tuple[str, ...]:
    return (
        f"STORED={STORED[stored]}",
        f"COMPUTE={'double' if stored == torch.float64 else 'float'}",
        f"EMITTED={EMITTED[emitted]}",
        f"CODE={CODES[code.name]}",
        f"VECTOR={vector}",
        f"INDEX={'uint64' if wide else 'uint32'}",
    )
