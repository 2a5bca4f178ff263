"""What a converted network is made of, and how it does."""

from .evaluate import Evaluation, evaluate
from .inspect import Inspection, Row, inspect

__all__ = ["Evaluation", "Inspection", "Row", "evaluate", "inspect"]
