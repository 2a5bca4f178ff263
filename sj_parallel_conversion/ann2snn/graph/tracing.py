"""Tracing a model into a graph of our own, with errors that point at the user's line."""

from __future__ import annotations

import copy
import sys
import traceback
from pathlib import Path

import torch
from torch import fx, nn

from ...activation import DAQCFS, QCFS, ClipReLU
from ...errors import ConversionError

LEAVES: tuple[type[nn.Module], ...] = (QCFS, DAQCFS, ClipReLU)


class _Tracer(fx.Tracer):
    """Keeps this project's activations whole; SpikingJelly's plain tracer would look inside."""

    def is_leaf_module(self, module: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(module, LEAVES) or super().is_leaf_module(module, module_qualified_name)


def trace(model: nn.Module) -> fx.GraphModule:
    """
    :param model: any module; it is left as it was
    :return: the graph of a copy in evaluation mode that shares nothing with ``model``
    :raises ConversionError: if the model cannot be copied or traced; the message names the line of the model
    """
    if not isinstance(model, nn.Module):
        raise ConversionError(f"the model must be a torch.nn.Module, got {type(model).__name__}")
    name = type(model).__name__
    try:
        root = copy.deepcopy(model).eval()
    except Exception as error:
        raise ConversionError(
            f"{name} cannot be copied ({error}). If it holds results of a forward pass, detach or delete them first"
        ) from error
    tracer = _Tracer()
    try:
        graph = tracer.trace(root)
    except Exception as error:
        raise ConversionError(
            f"torch.fx cannot trace {name}: {error}\n{_user_line(error)}"
            "Replace control flow that depends on tensor values or sizes by operations on tensors, or move it out of "
            "the model and convert the part that computes"
        ) from error
    return fx.GraphModule(root, graph)


def _user_line(error: Exception) -> str:
    """The innermost line of the traceback that belongs neither to torch nor to this package."""
    own = (str(Path(torch.__file__).parent), str(Path(__file__).parents[2]), sys.prefix + "/lib/python")
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(own)]
    frames = frames or [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(own[:2])]
    return f'at {frames[-1].filename}, line {frames[-1].lineno}: {frames[-1].line}\n' if frames else ""
