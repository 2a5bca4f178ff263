"""
Attention that a module calls as a function, as a module of its own: so it has a name, and can be a part.

The module that calls :func:`torch.nn.functional.scaled_dot_product_attention` keeps its code. While its ``forward``
runs, the function leads to a submodule of it.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from ...torch_compat import innermost_function_mode
from ..data.inputs import Call
from .calls import run_model

NAME = "scaled_dot_product_attention"
_ATTEND = F.scaled_dot_product_attention


class AttentionCall(nn.Module):
    """What a call of the function computes. All that the calls of one module differ in is a tensor."""

    def forward(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor, scale: float) -> Tensor:
        """:param bias: is added to the scores, ``[N, ..., L, S]``. :return: ``[N, ..., L, features]``"""
        return _ATTEND(query, key, value, bias, scale=scale)


class _Redirection(TorchFunctionMode):
    """
    Calls of the function lead to ``attend``, with its arguments. The innermost redirection counts.

    :param module: whose ``forward`` runs
    :param attend: what takes the place of the function
    :param frame: in which that is. An interrupt from the keyboard ends it, and no hook
    """

    def __init__(self, module: nn.Module, attend: Callable[..., object], frame: FrameType) -> None:
        super().__init__()
        self.module, self._attend, self.frame = module, attend, frame

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        is_ours = func is _ATTEND and _entered()[-1] is self and not _has_ended(self)
        return (self._attend if is_ours else func)(*args, **(kwargs or {}))


_of_thread = threading.local()


def _entered() -> list[_Redirection]:
    """The redirections of this thread, the outermost first."""
    if not hasattr(_of_thread, "redirections"):
        _of_thread.redirections = []
    return _of_thread.redirections


def add_attention_calls(model: nn.Module, call: Call) -> list[str]:
    """
    Give each module that calls the function a submodule ``scaled_dot_product_attention``, in place.

    :param model: a copy of a model
    :param call: what it is called with
    :return: the names of these submodules
    """
    names = _callers(model, call)
    return add_submodules(model, [f"{name}.{NAME}".lstrip(".") for name in names])


def add_submodules(model: nn.Module, names: Collection[str]) -> list[str]:
    """
    As :func:`add_attention_calls`, where the names are known.

    :param model: a copy of a model
    :param names: names of submodules. Those that do not end in ``scaled_dot_product_attention``, that exist already, or
        whose parent does not exist, are left out
    :return: those that were added
    """
    modules, added = dict(model.named_modules(remove_duplicate=False)), []
    for name in names:
        parent, _, last = name.rpartition(".")
        if last == NAME and parent in modules and not hasattr(modules[parent], NAME):
            module = modules[parent]
            module.add_module(NAME, AttentionCall())
            module.register_forward_pre_hook(_enter)
            module.register_forward_hook(_leave, always_call=True)
            added.append(name)
    return added


def remove_submodules(model: nn.Module, names: Collection[str]) -> None:
    """Take back what :func:`add_submodules` has done."""
    for name in names:
        module = model.get_submodule(name.rpartition(".")[0])
        delattr(module, NAME)
        for hooks, ours in ((module._forward_pre_hooks, _enter), (module._forward_hooks, _leave)):
            for key in [key for key, hook in hooks.items() if hook is ours]:
                del hooks[key]
                module._forward_hooks_always_called.pop(key, None)


def _enter(module: nn.Module, args: object) -> None:
    _push(module, partial(_attended, getattr(module, NAME)))


def _leave(module: nn.Module, args: object, output: object) -> None:
    # a hook of the user's that fails comes before ours
    if _entered() and _entered()[-1].module is module:
        _entered()[-1].__exit__(None, None, None)
        _entered().pop()


def _push(module: nn.Module, attend: Callable[..., object]) -> None:
    """To be called by a hook."""
    _forget_ended()
    _entered().append(_Redirection(module, attend, sys._getframe(2)))
    _entered()[-1].__enter__()


def _has_ended(redirection: _Redirection) -> bool:
    """Whether the module's ``forward`` has been left."""
    if torch.compiler.is_dynamo_compiling():  # which knows no frames
        return False
    frame: FrameType | None = sys._getframe()
    while frame is not None and frame is not redirection.frame:
        frame = frame.f_back
    return frame is None


def _forget_ended() -> None:
    """Leave what an interrupt from the keyboard has left behind, but for what lies below a mode of someone else."""
    while _entered() and _entered()[-1] is innermost_function_mode() and _has_ended(_entered()[-1]):
        _entered().pop().__exit__(None, None, None)


def _attended(
    module: Callable[..., Tensor],
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """The arguments of the function, so written that one network serves all calls: with and without a cache, say."""
    bias_axes = 0 if attn_mask is None else attn_mask.dim()
    if dropout_p or query.dim() < max(3, bias_axes) or not key.shape[-2]:  # or no axis for samples, or no keys
        return _ATTEND(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)
    if enable_gqa:
        times = query.shape[-3] // key.shape[-3]
        key, value = (x.repeat_interleave(times, -3) for x in (key, value))
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    hidden = _hidden(query, key, attn_mask, is_causal)
    bias = torch.zeros_like(hidden, dtype=query.dtype)
    if attn_mask is not None and attn_mask.dtype != torch.bool:
        bias = attn_mask
    # a conversion takes finite numbers alone
    bias = bias.masked_fill(hidden, torch.finfo(query.dtype).min)
    bias = bias.reshape(*[1] * (query.dim() - bias.dim()), *bias.shape)
    # a learned query, say, is one for all samples, and a mask may be one for all queries
    (samples,) = torch.broadcast_shapes(*(x.shape[:1] for x in (query, key, value, bias)))
    query, key, value = (x.expand(samples, *x.shape[1:]) for x in (query, key, value))
    bias = bias.expand(samples, *bias.shape[1:-2], query.shape[-2], key.shape[-2])
    result = module(query, key, value, bias, scale)
    return result if attn_mask is None else result.masked_fill(hidden.all(-1, keepdim=True), 0.0)


def _hidden(query: Tensor, key: Tensor, mask: Tensor | None, is_causal: bool) -> Tensor:
    """Which keys a query does not attend to."""
    if mask is None:
        seen = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device)
        return ~(seen.tril() if is_causal else seen)
    return ~mask if mask.dtype == torch.bool else mask == -torch.inf


@torch.no_grad()
def _callers(model: nn.Module, call: Call) -> list[str]:
    """The names of the innermost modules in whose ``forward`` the function is called, and can be a module's."""
    calling: set[nn.Module] = set()

    def note(module: nn.Module) -> Callable[..., Tensor]:
        def attend(*args: Any) -> Tensor:
            calling.add(module)
            return attention(*args)

        return attend

    attention = AttentionCall()
    with _hooked(model, lambda module, args: _push(module, partial(_attended, note(module)))):
        run_model(model, call)
    return [name for name, module in model.named_modules() if module in calling]


@contextmanager
def _hooked(model: nn.Module, enter: Callable[[nn.Module, object], None]) -> Iterator[None]:
    hooks: list[Any] = []
    try:
        for module in model.modules():
            hooks.append(module.register_forward_pre_hook(enter))
            hooks.append(module.register_forward_hook(_leave, always_call=True))
        yield
    finally:
        for hook in hooks:
            hook.remove()
        _forget_ended()
