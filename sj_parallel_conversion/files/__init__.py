"""Files: a converted network is saved, and loaded without the code of the model that it came from."""

from .networks import load, save

__all__ = ["load", "save"]
