"""What goes into SpikingJelly's namespaces, and out again."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from types import ModuleType

from . import compat
from .ann2snn.config import MODES
from .ann2snn.converter import ParallelConverter
from .ann2snn.recipe import ParallelConversionRecipe
from .converter_modes import accept_modes
from .errors import RegistrationError
from .user_warnings import warn

# The names that each of SpikingJelly's modules gets.
NAMES: dict[ModuleType, dict[str, type]] = {
    compat.neuron: {node.__name__: node for node in MODES.values()},
    compat.ann2snn: {cls.__name__: cls for cls in (ParallelConverter, ParallelConversionRecipe)},
}

# The attribute of SpikingJelly's ann2snn that holds the patches in place. A second copy of this package (imported
# after sys.modules was purged) finds there what the first one has left.
MARK = "_sj_parallel_conversion"


@dataclass(frozen=True, eq=False)
class Patch:
    """An attribute of SpikingJelly that this package sets, and what was there."""

    owner: object
    attribute: str
    value: object
    existed: bool
    before: object

    @classmethod
    def of(cls, owner: object, attribute: str, value: object) -> Patch:
        """The patch that will set ``owner.attribute``."""
        space = vars(owner)
        return cls(owner, attribute, value, attribute in space, space.get(attribute))

    @property
    def in_place(self) -> bool:
        """Whether nobody has replaced it."""
        return vars(self.owner).get(self.attribute) is self.value

    def undo(self) -> None:
        """Put back what was there."""
        if self.existed:
            setattr(self.owner, self.attribute, self.before)
        else:
            delattr(self.owner, self.attribute)


_lock = threading.RLock()
_patches: list[Patch] = []


def register() -> None:
    """
    Put the nodes, the recipe, the converter and the names of the modes into SpikingJelly. Importing the package does
    this; a second call changes nothing.

    A name that SpikingJelly already has is left alone: a warning says so, and the other names are registered.
    """
    with _lock:
        present = vars(compat.ann2snn).get(MARK)
        if present is _patches:
            return
        for patch in reversed(present or []):  # an earlier copy's; what others have put over it is theirs
            if patch.in_place:
                patch.undo()
        modes = [mode for mode in MODES if not compat.DIALECT.knows(mode)]
        taken = [(module, name) for module, names in NAMES.items() for name in names if hasattr(module, name)]
        _patches[:] = _planned(taken, modes)
        for patch in _patches:
            setattr(patch.owner, patch.attribute, patch.value)
        _warn_of(taken, [mode for mode in MODES if mode not in modes])


def unregister() -> None:
    """
    Take everything back that :func:`register` put in. A second call changes nothing. Converters that were made before
    keep working.

    :raises RegistrationError: if something else has since replaced what was put in; nothing is taken back then
    """
    with _lock:
        if vars(compat.ann2snn).get(MARK) is not _patches:
            return
        for patch in _patches:
            if not patch.in_place:
                raise RegistrationError(
                    f"{patch.owner.__name__}.{patch.attribute} was replaced after sj_parallel_conversion was "
                    "registered; undo that first"
                )
        while _patches:
            _patches.pop().undo()


def _planned(taken: list[tuple[ModuleType, str]], modes: list[str]) -> list[Patch]:
    """The patches that set every name that is free, and let ``Converter`` take ``modes``."""
    names = [(module, name, value) for module, names in NAMES.items() for name, value in names.items()]
    patches = [Patch.of(*free) for free in names if free[:2] not in taken]
    if modes:
        patches.append(Patch.of(compat.Converter, "__init__", accept_modes(compat.Converter.__init__, modes)))
    return [*patches, Patch.of(compat.ann2snn, MARK, _patches)]


def _warn_of(taken: list[tuple[ModuleType, str]], modes: list[str]) -> None:
    """
    :param taken: names that SpikingJelly's modules already had
    :param modes: conversions that its ``Converter`` already had
    """
    theirs = [f"{module.__name__}.{name}" for module, name in taken]
    theirs += [f"ann2snn.Converter's {compat.DIALECT.argument} {mode!r}" for mode in modes]
    ours = [f"sj_parallel_conversion.{name}" for _, name in taken]
    ours += [f"sj_parallel_conversion.ParallelConverter(dataloader, mode={mode!r})" for mode in modes]
    if theirs:
        warn(
            f"SpikingJelly already has {', '.join(theirs)}, from another plugin or a newer release. These names keep "
            f"their meaning there. For those of sj_parallel_conversion write {', '.join(ours)}"
        )
