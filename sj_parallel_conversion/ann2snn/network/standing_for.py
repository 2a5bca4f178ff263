"""Networks that stand for a model of the user's pass on its attributes and methods."""

from __future__ import annotations

import copy
import functools
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
        self.__dict__["_hidden"] = frozenset({*vars(self), *self._modules}) - OF_ANY_MODULE
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
            is_method = isinstance(value, types.MethodType) and type(type(value.__self__)) is _OfKind
            return _giving_itself(value) if is_method else value

    def _hides(self, name: str) -> bool:
        """
        Whether it is an attribute of the network's own, such as ``config`` or ``predict``. Users get it; methods of the
        original get the original's, or none.
        """
        hidden: frozenset[str] = self.__dict__.get("_hidden", frozenset())
        return name in hidden or (hasattr(type(self), name) and not hasattr(nn.Module, name))

    def _of_original(self, name: str) -> Any:
        kind, attributes = self.__dict__.get("_original", (nn.Module, {}))
        if name in attributes:
            return attributes[name]
        # what every module has was found before
        value = next((vars(cls)[name] for cls in kind.__mro__ if name in vars(cls)), _ABSENT)
        if isinstance(value, types.MemberDescriptorType):  # a slot, which torch does not copy
            return _ABSENT
        if isinstance(value, types.FunctionType):
            return types.MethodType(value, _answering(self, kind))
        return value.__get__(_answering(self, kind), kind) if hasattr(value, "__get__") else value


class _OfKind(type):
    """Class of classes that stand for the user's class: a method may ask for ``type(self).name``, or for another."""

    _sjpc_kind: type[nn.Module]

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        return cls._sjpc_kind(*args, **kwargs)

    def __getattr__(cls, name: str) -> Any:
        return getattr(cls._sjpc_kind, name)

    def __setattr__(cls, name: str, value: object) -> None:
        setattr(cls._sjpc_kind, name, value)

    def __eq__(cls, other: object) -> bool:
        return cls._sjpc_kind == (other._sjpc_kind if isinstance(other, _OfKind) else other)

    def __hash__(cls) -> int:
        return hash(cls._sjpc_kind)


class _Answering(metaclass=_OfKind):
    """
    A network as methods of the user's see it. Called, it answers with a decoded result in either step mode, because
    they were written for a model without time. Its own names are such as no model has.
    """

    _sjpc_network: StandingFor
    _sjpc_kind = nn.Module  # of classes that are made of this one, the user's

    __class__: Any = property(lambda self: type(self)._sjpc_kind)  # for isinstance and super()

    def __call__(self, *args: object, **kwargs: object) -> object:
        return self._sjpc_network._answer(*args, **kwargs)

    forward = __call__

    def __getattr__(self, name: str) -> Any:
        network = self._sjpc_network
        hidden = network._hides(name)
        if not hidden and _has(network, name):
            return getattr(network, name)
        value = network._of_original(name)
        if value is not _ABSENT:
            return value
        if not hidden:
            return getattr(network, name)
        raise AttributeError(
            f"what stands for the {self.__class__.__name__} in its methods has no {name!r}: modules of the ANN, and "
            "attributes that cannot be saved, are not passed on"
        )

    def __setattr__(self, name: str, value: object) -> None:
        network = self._sjpc_network
        descriptor = next((vars(cls)[name] for cls in self.__class__.__mro__ if name in vars(cls)), None)
        setter = None if type(descriptor) is types.MemberDescriptorType else getattr(type(descriptor), "__set__", None)
        if setter is not None:  # such as that of a property
            setter(descriptor, self, value)
        elif not network._hides(name) and (_has(network, name) or isinstance(value, (nn.Module, nn.Parameter))):
            setattr(network, name, value)
        else:
            self._sjpc_kept()[name] = value

    def __delattr__(self, name: str) -> None:
        if name in self._sjpc_kept():
            del self._sjpc_kept()[name]
        else:
            delattr(self._sjpc_network, name)

    def __deepcopy__(self, memo: dict[int, Any]) -> _Answering:
        return _answering(copy.deepcopy(self._sjpc_network, memo), self.__class__)

    def __reduce__(self) -> tuple[Any, ...]:
        return _itself, (self._sjpc_network,)

    def _sjpc_kept(self) -> dict[str, object]:
        kept: dict[str, object] = self._sjpc_network.__dict__["_original"][1]
        return kept


def _answering(network: StandingFor, kind: type[nn.Module]) -> _Answering:
    names = {"_sjpc_kind": kind, "__module__": kind.__module__, "__qualname__": kind.__qualname__}
    made: _Answering = type.__call__(_OfKind(kind.__name__, (_Answering,), names))
    made.__dict__["_sjpc_network"] = network
    return made


def _giving_itself(method: types.MethodType) -> types.MethodType:
    """A method that returns its model gives users the network, and not what methods see of it."""

    @functools.wraps(method.__func__)
    def call(model: _Answering, *args: object, **kwargs: object) -> object:
        result = method.__func__(model, *args, **kwargs)
        return result._sjpc_network if type(type(result)) is _OfKind else result

    return types.MethodType(call, method.__self__)


def _itself(network: StandingFor) -> StandingFor:
    return network


def _has(network: nn.Module, name: str) -> bool:
    """Whether it has an attribute without what it stands for."""
    parts = (vars(network), network._parameters, network._buffers, network._modules)
    return hasattr(nn.Module, name) or any(name in part for part in parts)


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
