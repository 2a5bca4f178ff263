"""What is trained before or after a conversion."""

from .replace import replace_activations

__all__ = ["replace_activations"]
