"""What a converted network is made of, and how it does."""

from .inspect import Inspection, Row, inspect

__all__ = ["Inspection", "Row", "inspect"]
