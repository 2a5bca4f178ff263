"""SpikingJelly's own ``Converter``, asked for a mode of this package."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from . import compat
from .ann2snn.converter import check_device, run_recipe
from .ann2snn.recipe import ParallelConversionRecipe
from .errors import ConfigError
from .user_warnings import warn


def accept_modes(init: Callable[..., Any], modes: list[str]) -> Callable[..., Any]:
    """
    :param init: SpikingJelly's ``Converter.__init__``
    :param modes: names of this package's modes that SpikingJelly does not know
    :return: ``init`` that also takes these names, and their options
    """
    signature, argument = inspect.signature(init), compat.DIALECT.argument
    names = list(signature.parameters)[1:]

    @functools.wraps(init)
    def __init__(self: object, *args: object, **kwargs: object) -> None:
        _refuse_foreign_argument(kwargs, modes)
        own = {name: kwargs[name] for name in kwargs if name in names}
        options = {name: kwargs[name] for name in kwargs if name not in names}
        choice = (dict(zip(names, args, strict=False)) | own).get(argument)
        if not _is_ours(choice, options, modes):
            with _naming_modes(choice, options, modes):
                init(self, *args, **kwargs)
            return
        bound = signature.bind_partial(self, *args, **own).arguments
        given = {name: bound[name] for name in bound if name in names}
        recipe = _recipe(choice, given, options)
        init(self, **given | {argument: compat.DIALECT.neutral})
        setattr(self, argument, choice)
        _convert_with(recipe, self)

    return __init__


def _refuse_foreign_argument(kwargs: dict[str, object], modes: list[str]) -> None:
    mode = kwargs.get(compat.DIALECT.foreign_argument)
    if isinstance(mode, str) and mode in modes:
        raise ConfigError(
            f"{compat.DIALECT.foreign_argument}={mode!r}: the installed SpikingJelly calls this argument "
            f"{compat.DIALECT.argument}, so write ann2snn.{compat.DIALECT.usage.format(mode=mode)}. "
            f"ann2snn.ParallelConverter(dataloader, mode={mode!r}).convert(ann) is the same on every release"
        )


def _is_ours(choice: object, options: dict[str, object], modes: list[str]) -> bool:
    """Whether ``Converter`` was asked for a conversion of this package."""
    if isinstance(choice, ParallelConversionRecipe):
        return not options  # a recipe has its options; SpikingJelly refuses others
    return isinstance(choice, str) and choice in modes


def _recipe(choice: Any, given: dict[str, Any], options: dict[str, Any]) -> ParallelConversionRecipe:
    """
    :param choice: a mode or a recipe of this package
    :param given: the arguments that SpikingJelly's ``Converter`` knows
    :param options: the others
    """
    if isinstance(choice, ParallelConversionRecipe):
        return choice
    check_device(given.get("device"))
    # what is left are the options of rate coding: code that changes nothing but the mode still passes them
    ignored = [name for name in given if name not in (compat.DIALECT.argument, "device", "dataloader")]
    if ignored:
        warn(
            f"{', '.join(ignored)}: option of SpikingJelly's rate coding, without effect if "
            f"{compat.DIALECT.argument}={choice!r}"
        )
    data = {"dataloader": given["dataloader"]} if "dataloader" in given else {}
    return ParallelConversionRecipe(mode=choice, **data, **options)


def _convert_with(recipe: ParallelConversionRecipe, converter: Any) -> None:
    """
    Make ``converter`` convert with ``recipe``. The method is set on the object and not on SpikingJelly's class, so it
    is there after :func:`unregister` too.

    :raises ConfigError: if the converter's class has a method of its own, which would be bypassed
    """
    method = compat.DIALECT.method
    if getattr(type(converter), method) is not getattr(compat.Converter, method):
        raise ConfigError(
            f"{type(converter).__name__} has a {method} method of its own, which sj_parallel_conversion would bypass. "
            "Convert with sj_parallel_conversion.ParallelConverter"
        )
    converter.recipe = recipe
    setattr(converter, method, functools.partial(run_recipe, converter))


@contextmanager
def _naming_modes(choice: object, options: dict[str, object], modes: list[str]) -> Iterator[None]:
    """SpikingJelly's errors stay as they are, but a misspelt mode is told which there are."""
    try:
        yield
    except (TypeError, ValueError, NotImplementedError) as error:
        argument, own, ours = compat.DIALECT.argument, compat.DIALECT.own_values, ", ".join(map(repr, modes))
        if isinstance(choice, str) and options and not compat.DIALECT.knows(choice):
            raise ConfigError(
                f"{argument}={choice!r} is unknown or does not take {', '.join(options)}. Choose one of: {ours}; "
                f"or, without these options, SpikingJelly's own: {own}"
            ) from error
        if isinstance(choice, str) and not isinstance(error, TypeError):
            error.add_note(f"{argument} may be {ours} (sj_parallel_conversion), or SpikingJelly's own: {own}")
        raise
