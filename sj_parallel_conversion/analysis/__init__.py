"""What a converted network is made of, and how it does."""

from .evaluate import Evaluation, evaluate
from .inspect import Inspection, Row, inspect
from .layer_errors import LayerError, LayerErrors, layer_errors, verify

__all__ = [
    "Evaluation",
    "Inspection",
    "LayerError",
    "LayerErrors",
    "Row",
    "evaluate",
    "inspect",
    "layer_errors",
    "verify",
]
