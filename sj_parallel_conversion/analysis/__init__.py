"""What a converted network is made of, and how it does."""

from .count_operations import LayerOperations, OperationCount, count_operations
from .evaluate import Evaluation, evaluate
from .inspect import Inspection, Row, inspect
from .layer_errors import LayerError, LayerErrors, layer_errors, verify
from .report import Report, report
from .synop_rules import synop_rules

__all__ = [
    "Evaluation",
    "Inspection",
    "LayerError",
    "LayerErrors",
    "LayerOperations",
    "OperationCount",
    "Report",
    "Row",
    "count_operations",
    "evaluate",
    "inspect",
    "layer_errors",
    "report",
    "synop_rules",
    "verify",
]
