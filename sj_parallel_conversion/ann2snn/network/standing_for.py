"""Networks that stand for a model of the user's pass on its attributes and methods."""

from __future__ import annotations

import io
import pickle
import types
from typing import Any

from torch import Tensor, nn

_ABSENT = object()
OF_ANY_MODULE = frozenset(vars(nn.Module()))  # names of what torch keeps in each module


class StandingFor(nn.Module):
    """
    Base of modules that stand for another: what they do not have themselves they take from it. Methods are bound to
    the new module, so that a method that calls its model gets the answer of the spiking one.
    """

    def _answer(self, *args: object, **kwargs: object) -> object:
        """What methods of the other module get when they call their model: decoded, the whole window in one call."""
        return self(*args, **kwargs)

    def stand_for(self, original: nn.Module) -> None:
        """
        :param original: the module to stand for; its class is kept, and its attributes that are no modules, no
            parameters and no buffers, as far as they can be saved and have no modules of the ANN in them
        """
        kept = {}
        for name, value in vars(original).items():
            if name not in OF_ANY_MODULE and _can_be_saved(value):
                kept[name] = value
        # past nn.Module's own, which would look at each of them
        # such as "config": the network's own is what users get, and the original's what methods of the original get
        self.__dict__["_hidden"] = frozenset(name for name in kept if name in vars(self) or hasattr(type(self), name))
        self.__dict__["_original"] = (type(original) if _can_be_saved(type(original)) else nn.Module, kept)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            # torch and others look for private names, to learn what a module is
            if name.startswith("_"):
                raise
            value = self._of_original(name)
            if value is _ABSENT:
                raise
            return value

    def _of_original(self, name: str) -> Any:
        kind, attributes = self.__dict__.get("_original", (nn.Module, {}))
        if name in attributes:
            return attributes[name]
        # what every module has was found before
        value = next((vars(cls)[name] for cls in kind.__mro__ if name in vars(cls)), _ABSENT)
        if isinstance(value, types.FunctionType):
            return types.MethodType(value, _answering(self, kind))
        return value.__get__(_answering(self, kind), kind) if hasattr(value, "__get__") else value


class _OfKind(type):
    """Class of classes that have what the user's class has: a method may ask for ``type(self).name``."""

    kind: type[nn.Module]

    def __getattr__(cls, name: str) -> Any:
        return getattr(cls.kind, name)


class _Answering(metaclass=_OfKind):
    """
    A network as methods of the user's see it. Called, it answers with a decoded result in either step mode, because
    they were written for a model without time.
    """

    def __init__(self, network: StandingFor) -> None:
        self.__dict__.update(_network=network)

    __class__: Any = property(lambda self: type(self).kind)  # for isinstance and super()

    def __call__(self, *args: object, **kwargs: object) -> object:
        return self._network._answer(*args, **kwargs)

    forward = __call__

    def __getattr__(self, name: str) -> Any:
        if name in self._hidden():
            return self._network._of_original(name)
        try:
            return getattr(self._network, name)
        except AttributeError:
            value = self._network._of_original(name)
            if value is _ABSENT:
                raise
            return value

    def __setattr__(self, name: str, value: object) -> None:
        if name in self._hidden():
            self._network.__dict__["_original"][1][name] = value
        else:
            setattr(self._network, name, value)

    def _hidden(self) -> frozenset[str]:
        found: frozenset[str] = self._network.__dict__.get("_hidden", frozenset())
        return found


def _answering(network: StandingFor, kind: type[nn.Module]) -> _Answering:
    found: _Answering = _OfKind(kind.__name__, (_Answering,), {"kind": kind})(network)
    return found


def _can_be_saved(value: object) -> bool:
    if isinstance(value, (Tensor, int, float, str, bool, type(None))):
        return True
    try:
        _Pickler(io.BytesIO()).dump(value)
    except Exception:
        return False
    return True


class _Pickler(pickle.Pickler):
    """Refuses modules, wherever in a value they are."""

    def persistent_id(self, obj: object) -> None:
        """As in ``pickle.Pickler``, which asks this for each object."""
        if isinstance(obj, nn.Module):
            raise pickle.PicklingError("it holds a module")
