"""The version of this package, which files name."""

__version__ = "0.1.0"
