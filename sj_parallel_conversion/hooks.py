"""Hooks that users put on modules, gradients, and what both forbid."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def has_hooks(module: nn.Module) -> bool:
    """Whether someone listens to ``module``."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


def hand_over_hooks(old: nn.Module, new: nn.Module) -> None:
    """
    :param old: a module with hooks of any kind around ``forward``
    :param new: takes its place, and these hooks
    """
    vars(new).update({name: hooks for name, hooks in vars(old).items() if name.startswith("_forward_")})


def records_gradient(*values: Tensor | None) -> bool:
    """Whether autograd records what is computed from ``values``."""
    return torch.is_grad_enabled() and any(value is not None and value.requires_grad for value in values)


def may_overwrite(source: tuple[nn.Module, ...], *values: Tensor | None) -> bool:
    """
    :param source: the module that computed a value which nothing else reads, or nothing if there is no such module
    :param values: that value, and what is computed with it
    :return: whether that value may be written to: neither autograd nor a hook may have kept it
    """
    return len(source) > 0 and not records_gradient(*values) and not has_hooks(source[0])
