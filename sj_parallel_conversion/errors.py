"""This project's own errors. Each tells what was wrong, where, and what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


class SJPCError(ValueError):
    """Base of all errors of this package."""


class ConfigError(SJPCError):
    """An option or argument is out of range."""


class DataError(SJPCError):
    """Calibration data or an input cannot be used."""


class ConversionError(SJPCError):
    """The model cannot be converted."""


class FileError(SJPCError):
    """A file cannot be read or written, or a network cannot be saved."""


class RankError(SJPCError):
    """Several processes work on one thing, and one of them has failed, is gone, or has another result."""


class StateDictError(ConfigError, RuntimeError):
    """A state dict belongs to a network or a neuron of other options. A RuntimeError too, as torch's own."""


class RegistrationError(SJPCError):
    """Something has replaced what this package registered with SpikingJelly, so it cannot be taken back."""


class UnsupportedReleaseError(SJPCError, ImportError):
    """The installed SpikingJelly is missing or not supported."""


class MissingExtraError(SJPCError, ImportError):
    """A library that only an extra of this package installs is missing."""


_FROM_TORCH = (RuntimeError, ValueError, TypeError, IndexError, NotImplementedError)


@contextmanager
def as_data_error(explain: Callable[[], str]) -> Iterator[None]:
    """
    What torch raises on an input of a wrong shape, dtype or device becomes a :class:`DataError`.

    :param explain: what failed, for the message
    :raises DataError: in the place of torch's error, with its words
    """
    try:
        yield
    except _FROM_TORCH as error:
        # Subclasses say more than that an input was wrong: own errors, out of memory, singular matrices.
        if type(error) not in _FROM_TORCH:
            raise
        raise DataError(f"{explain()}: {error}") from error
