"""What goes into SpikingJelly's namespaces, and out again."""

from __future__ import annotations

import functools
import inspect
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from . import compat
from .ann2snn import ParallelConversionRecipe, ParallelConverter
from .ann2snn.config import MODES
from .ann2snn.converter import check_device, run_recipe
from .errors import ConfigError, RegistrationError

# SpikingJelly's module: the names that it gets
NAMES: dict[object, dict[str, object]] = {
    compat.neuron: {node.__name__: node for node in MODES.values()},
    compat.ann2snn: {cls.__name__: cls for cls in (ParallelConverter, ParallelConversionRecipe)},
}

_ABSENT = object()
_lock = threading.RLock()
_undo: list[tuple[object, str, object, object]] = []  # owner, attribute, value before, value while registered


def register() -> None:
    """
    Put the nodes, the recipe, the converter and the names of the modes into SpikingJelly. Importing the package does
    this; a second call changes nothing.

    :raises RegistrationError: if SpikingJelly has one of the names already; nothing is registered then
    """
    with _lock:
        if _undo:
            return
        _check_free()
        for owner, attribute, value in _changes():
            _undo.append((owner, attribute, vars(owner).get(attribute, _ABSENT), value))
            setattr(owner, attribute, value)


def unregister() -> None:
    """
    Take everything back that :func:`register` put in. A second call changes nothing.

    :raises RegistrationError: if something else has since replaced what was put in; nothing is taken back then
    """
    with _lock:
        for owner, attribute, _, value in _undo:
            if vars(owner).get(attribute) is not value:
                raise RegistrationError(
                    f"{owner.__name__}.{attribute} was replaced after sj_parallel_conversion was registered; "
                    "undo that first"
                )
        while _undo:
            owner, attribute, before, _ = _undo.pop()
            if before is _ABSENT:
                delattr(owner, attribute)
            else:
                setattr(owner, attribute, before)


def _check_free() -> None:
    taken = [f"{module.__name__}.{name}" for module, names in NAMES.items() for name in names if name in vars(module)]
    taken += [f"ann2snn.Converter's {compat.DIALECT.argument} {mode!r}" for mode in MODES if compat.DIALECT.knows(mode)]
    if taken:
        raise RegistrationError(
            f"SpikingJelly already has {', '.join(taken)}: another plugin or a newer SpikingJelly brings it. "
            "sj_parallel_conversion replaces nothing and was not registered"
        )


def _changes() -> list[tuple[object, str, object]]:
    changes = [(module, name, value) for module, names in NAMES.items() for name, value in names.items()]
    changes += [(m, "__all__", [*m.__all__, *names]) for m, names in NAMES.items() if hasattr(m, "__all__")]
    converter, method = compat.Converter, compat.DIALECT.method
    return [
        *changes,
        (converter, "__init__", _accept_modes(converter.__init__)),
        (converter, method, _accept_recipe(getattr(converter, method))),
    ]


def _accept_modes(init: Callable) -> Callable:
    """SpikingJelly's ``Converter.__init__`` that also takes the names of this package's modes, and their options."""
    signature, argument = inspect.signature(init), compat.DIALECT.argument

    @functools.wraps(init)
    def __init__(self: object, *args: object, **kwargs: object) -> None:
        _refuse_foreign_argument(kwargs)
        known = {name: kwargs[name] for name in kwargs if name in signature.parameters}
        given = signature.bind_partial(self, *args, **known).arguments
        options = {name: kwargs[name] for name in kwargs if name not in known}
        del given["self"]
        recipe = _recipe(given, options)
        if recipe is None:
            with _naming_modes(given.get(argument), options):
                init(self, *args, **kwargs)
        else:
            init(self, **given | {argument: compat.DIALECT.neutral})
            setattr(self, argument, given[argument])
            self.recipe = recipe

    return __init__


def _refuse_foreign_argument(kwargs: dict[str, object]) -> None:
    mode = kwargs.get(compat.DIALECT.foreign_argument)
    if isinstance(mode, str) and mode in MODES:
        raise ConfigError(
            f"{compat.DIALECT.foreign_argument}={mode!r}: the installed SpikingJelly calls this argument "
            f"{compat.DIALECT.argument}, so write ann2snn.{compat.DIALECT.usage.format(mode=mode)}. "
            f"ann2snn.ParallelConverter(dataloader, mode={mode!r}).convert(ann) is the same on every release"
        )


def _recipe(given: dict[str, object], options: dict[str, object]) -> ParallelConversionRecipe | None:
    """The recipe that ``Converter`` was asked for; ``None`` if that is a matter of SpikingJelly's own."""
    choice = given.get(compat.DIALECT.argument)
    if isinstance(choice, ParallelConversionRecipe) and not options:
        return choice
    if not (isinstance(choice, str) and choice in MODES):
        return None
    check_device(given.get("device"))
    # what is left are the options of rate coding: code that changes nothing but the mode still passes them
    ignored = [name for name in given if name not in (compat.DIALECT.argument, "device", "dataloader")]
    if ignored:
        warnings.warn(
            f"{', '.join(ignored)}: option of SpikingJelly's rate coding, without effect if "
            f"{compat.DIALECT.argument}={choice!r}",
            stacklevel=3,
        )
    data = {"dataloader": given["dataloader"]} if "dataloader" in given else {}
    return ParallelConversionRecipe(mode=choice, **data, **options)


@contextmanager
def _naming_modes(choice: object, options: dict[str, object]) -> Iterator[None]:
    """SpikingJelly's errors stay as they are, but a misspelt mode is told which there are."""
    try:
        yield
    except (TypeError, ValueError, NotImplementedError) as error:
        argument, own, modes = compat.DIALECT.argument, compat.DIALECT.own_values, ", ".join(map(repr, MODES))
        if isinstance(choice, str) and options and not compat.DIALECT.knows(choice):
            raise ConfigError(
                f"{argument}={choice!r} is unknown or does not take {', '.join(options)}. Choose one of: {modes}; "
                f"or, without these options, SpikingJelly's own: {own}"
            ) from error
        if isinstance(choice, str) and not isinstance(error, TypeError):
            error.add_note(f"{argument} may be {modes} (sj_parallel_conversion), or SpikingJelly's own: {own}")
        raise


def _accept_recipe(convert: Callable) -> Callable:
    """SpikingJelly's converting method that also runs this package's recipe."""

    @functools.wraps(convert)
    def method(self: object, *args: object, **kwargs: object) -> object:
        is_ours = isinstance(getattr(self, "recipe", None), ParallelConversionRecipe)
        return (run_recipe if is_ours else convert)(self, *args, **kwargs)

    return method
