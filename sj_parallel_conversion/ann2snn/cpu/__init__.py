"""What runs a converted network faster on CPUs: packed weights, int8 weights."""

from .int8 import to_int8
from .prepack import prepack

__all__ = ["prepack", "to_int8"]
