"""A page about a converted network, and its figures as JSON."""

from .create import Report, report

__all__ = ["Report", "report"]
