"""Hooks that users put on modules, and what they forbid."""

from __future__ import annotations

import torch
from torch import nn


def has_hooks(module: nn.Module) -> bool:
    """Whether someone listens to ``module``."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


def may_overwrite(source: tuple[nn.Module, ...]) -> bool:
    """
    :param source: the module that computed a value which nothing else reads, or nothing if there is no such module
    :return: whether that value may be written to: neither autograd nor a hook may have kept it
    """
    return len(source) > 0 and not torch.is_grad_enabled() and not has_hooks(source[0])
