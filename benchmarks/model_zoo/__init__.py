"""Other people's models, one :class:`Entry` each, by the library that they come from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.util import find_spec

from . import other_models
from .entry import Batch, Entry, call, tensors_of

__all__ = ["LIBRARIES", "Batch", "Entry", "call", "entries_of", "tensors_of"]


def _torchvision() -> Iterator[Entry]:
    from .torchvision_models import entries

    return entries()


def _transformers() -> Iterator[Entry]:
    from .transformers_models import entries

    return entries()


# the package that has to be installed -> its models
LIBRARIES: dict[str, Callable[[], Iterator[Entry]]] = {
    "torchvision": _torchvision,
    "transformers": _transformers,
    "ultralytics": other_models.ultralytics_entries,
    "segmentation_models_pytorch": other_models.smp_entries,
    "monai": other_models.monai_entries,
    "timm": other_models.timm_entries,
}


def entries_of(library: str) -> list[Entry] | None:
    """
    :param library: a key of :data:`LIBRARIES`
    :return: its models; ``None`` if the package is not installed
    """
    return list(LIBRARIES[library]()) if find_spec(library) else None
