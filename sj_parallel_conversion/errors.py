"""This project's own errors. Each tells what was wrong, where, and what to do."""


class SJPCError(ValueError):
    """Base of all errors of this package."""


class ConfigError(SJPCError):
    """An option or argument is out of range."""


class DataError(SJPCError):
    """Calibration data or an input cannot be used."""


class ConversionError(SJPCError):
    """The model cannot be converted."""


class RegistrationError(SJPCError):
    """SpikingJelly's namespaces already hold a name that this package would register."""


class UnsupportedReleaseError(SJPCError, ImportError):
    """The installed SpikingJelly is missing or not supported."""
