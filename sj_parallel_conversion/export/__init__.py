"""A converted network for other runtimes: torch alone, ONNX, and integers for hardware."""

from .torch_module import to_torch

__all__ = ["to_torch"]
