"""
Lets benchmarks import what the examples share: ``helpers.models`` is ``examples/helpers/models.py``, in both folders.

Python takes a module with a ``__path__`` for a package, and looks for its modules there.
"""

from pathlib import Path

__path__ = [str(Path(__file__).resolve().parents[1] / "examples" / "helpers")]
