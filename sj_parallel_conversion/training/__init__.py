"""What is trained before or after a conversion."""

from .fine_tune import FineTuning, fine_tune
from .replace import replace_activations

__all__ = ["FineTuning", "fine_tune", "replace_activations"]
