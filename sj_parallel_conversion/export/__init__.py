"""A converted network for other runtimes: torch alone, ONNX, and integers for hardware."""

from .integer_files import export_integers
from .onnx_file import export_onnx
from .torch_module import to_torch

__all__ = ["export_integers", "export_onnx", "to_torch"]
