"""What answers the ReLUs that a module calls as functions, or as one module several times, by own activations."""

from __future__ import annotations

import sys
from collections.abc import Callable
from inspect import signature, unwrap
from pathlib import Path
from types import CodeType, FrameType, MethodType
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils import checkpoint

from ..errors import ConversionError
from ..torch_compat import CALL_OF_A_MODULE, never_compiled
from .relus import OTHER_ACTIVATIONS, ReLUCall, is_relu, relu_call

_EQUATIONS = str(Path(__file__).parents[1] / "functional")  # they cut at zero as a part of their arithmetic
# Of ReLUs: the ReLU module that makes it, if one does, the function, and the value at which it cuts.
Calls = list[tuple[nn.Module | None, str, float]]


class Interceptor:
    """
    Stands for the ``forward`` of one module, as an attribute of the module: it is copied and saved with it. While the
    user's ``forward`` runs, a mode of torch sees each call of a ReLU, and the activation whose turn it is answers.

    :param module: the module, which keeps its class and its code
    :param name: what it is called in messages
    :param places: for each call of a ReLU in one forward, in order, the module that holds its activation and the name
        of the activation there
    """

    def __init__(self, module: nn.Module, name: str, places: list[tuple[nn.Module, str]]) -> None:
        self.module, self.name, self.places = module, name, places
        self.before = vars(module).get("forward")  # some libraries set one as well
        module.__dict__["forward"] = self

    @property
    def forward(self) -> Callable[..., Any]:
        """The user's ``forward``."""
        return self.before or MethodType(type(self.module).forward, self.module)

    def __getattr__(self, name: str) -> object:
        """What looks into the methods of a module, such as torch.export, finds the user's."""
        if name in ("__code__", "__func__", "__self__", "__signature__"):
            return signature(self.forward) if name == "__signature__" else getattr(self.forward, name)
        raise AttributeError(name)

    @never_compiled  # compiled code could pass by the mode
    def __call__(self, *args: object, **kwargs: object) -> object:
        """Run the network, with its ReLUs answered."""
        with _Answers(self) as mode:
            result = self.forward(*args, **kwargs)
        self.finish(mode.calls)
        return result

    def answer(self, call: ReLUCall, calls: Calls) -> Tensor | None:
        """The result of ``call``, the last of ``calls``; ``None`` if the ReLU itself is to compute it."""
        if len(calls) > len(self.places):
            self._refuse(calls)
        activation = getattr(*self.places[len(calls) - 1])
        if call.target is None:
            return activation(call.x)
        # autograd may keep the activation's input, which must not be written to
        return call.target.copy_(activation(call.x.clone()))

    def note(self, other: str) -> None:
        """:param other: an activation that is no ReLU, which computes"""

    def finish(self, calls: Calls) -> None:
        """Refuse a forward with too few ``calls``: some may have had the activations of others."""
        if len(calls) < len(self.places):
            self._refuse(calls)

    def _refuse(self, calls: Calls) -> None:
        names = ", ".join(name for _, name, _ in calls) or "none"
        raise ConversionError(
            f"{self.name} calls {len(calls)} ReLUs in one forward ({names}), and called {len(self.places)} when "
            "replace_activations ran the first batch, in evaluation mode and, if it runs so, in training mode. Their "
            "order tells which activation is meant, so their number must stay the same. Write those that are not "
            "always called as nn.ReLU modules of their own"
        )


_RUN: CodeType = unwrap(Interceptor.__call__).__code__


class _Answers(TorchFunctionMode):
    """For one forward of a module."""

    def __init__(self, owner: Interceptor) -> None:
        super().__init__()
        self._owner = owner
        self.calls: Calls = []

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        kwargs = kwargs or {}
        call = relu_call(func, args, kwargs)
        if func in OTHER_ACTIVATIONS and _innermost(sys._getframe()) is self._owner:
            self._owner.note(OTHER_ACTIVATIONS[func])
        owner, relu = (None, None) if call is None else _caller(sys._getframe())
        if call is None or owner is not self._owner:
            return func(*args, **kwargs)
        self.calls.append((relu, call.name, call.upper))
        result = owner.answer(call, self.calls)
        return func(*args, **kwargs) if result is None else result


def _caller(frame: FrameType | None) -> tuple[Interceptor | None, nn.Module | None]:
    """
    Who calls a ReLU: the interceptor of the module whose ``forward`` does, and the ReLU module in between, if there is
    one. ``None`` if it is a module without interceptor, an autograd.Function, or a function of this package.
    """
    relu, in_checkpoint = None, False
    while frame is not None and not frame.f_code.co_filename.startswith(_EQUATIONS):
        code = frame.f_code
        in_checkpoint |= code.co_filename == checkpoint.__file__
        if code is _RUN:
            owner = frame.f_locals["self"]
            if in_checkpoint:
                raise ConversionError(
                    f"{owner.name} calls a ReLU inside torch.utils.checkpoint. The activation would be missing when "
                    "the backward pass computes it again. Give checkpoint a submodule instead of a function"
                )
            return owner, relu
        if code is CALL_OF_A_MODULE:
            relu = frame.f_locals["self"]
            if not calls_for_its_caller(relu):
                break
        if code.co_name == "forward" and code.co_argcount and not in_checkpoint:
            if not isinstance(frame.f_locals.get(code.co_varnames[0]), nn.Module):
                break  # an autograd.Function, which has a gradient of its own
        frame = frame.f_back
    return None, None


def _innermost(frame: FrameType | None) -> Interceptor | None:
    """The interceptor of the module whose ``forward`` is running."""
    while frame is not None and frame.f_code is not _RUN:
        frame = frame.f_back
    return None if frame is None else frame.f_locals["self"]


def calls_for_its_caller(module: nn.Module) -> bool:
    """Whether a ReLU inside ``module`` counts as a call of the module around it."""
    return is_relu(module) or isinstance(module, ActivationPerCall)


class ActivationPerCall(nn.ModuleList):
    """In the place of one ReLU module (its name, for messages) that is called several times: an activation per call."""

    def __init__(self, name: str, inplace: bool) -> None:
        super().__init__()
        self._name, self._inplace = name, inplace

    def forward(self, input: Tensor) -> Tensor:
        """:param input: as of the ReLU. :return: what the activation of this call makes of it"""
        if _caller(sys._getframe())[0] is None:
            raise ConversionError(
                f"{self._name} is called several times, with another activation each time. Called by itself it cannot "
                "tell which is meant: call the network"
            )
        return F.relu(input, self._inplace)  # which the interceptor of the calling module answers


class ActivationInPlace(nn.Sequential):
    """In the place of an in-place ReLU: overwrites its input with what the activation within makes of it."""

    def forward(self, input: Tensor) -> Tensor:
        """:param input: as of the ReLU. :return: the same tensor"""
        return input.copy_(super().forward(input.clone()))
