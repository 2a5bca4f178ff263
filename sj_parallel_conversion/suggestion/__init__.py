"""How many time-steps a network needs."""

from .result import Setting, Suggestion
from .suggest import suggest_time_steps

__all__ = ["Setting", "Suggestion", "suggest_time_steps"]
