"""A converted network for other runtimes: torch alone, ONNX, and integers for hardware."""

from .onnx_file import export_onnx
from .torch_module import to_torch

__all__ = ["export_onnx", "to_torch"]
